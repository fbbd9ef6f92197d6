"""The doctor's judgement: one row for each trouble, told from made-up facts."""

from dataclasses import replace

import pytest

from stack.configuration.env_file import Entry
from stack.diagnosis.address_facts import Unusable
from stack.diagnosis.facts import Facts
from stack.diagnosis.findings import judge
from stack.installation.system_libraries import SystemPackage
from stack.running.ports import Port

VERBS = SystemPackage("libibverbs1", "library", "libibverbs.so.1", "Mooncake's engine")

WELL = Facts(
    with_docker=False,
    python=(3, 11),
    memory_total=24000,
    memory_available=20000,
    memory_limited=False,
    disk_folder="/srv",
    disk_free=50000,
    disk_needed=2500,
    instances=2,
    embedded_model=True,
    ports=(Port(8000, "proxy", "PROXY_PORT", None),),
    missing_packages=(),
    apt_may_install=False,
    engine=None,
    compose=None,
    overlays=("compose.yaml",),
    missing_overlays=(),
    gpus=(),
    rdma_devices=(),
    wants_gpu=False,
    wants_rdma=False,
    env_path=".env",
    env_entries=(Entry(1, "MODEL", "MODEL=x"),),
    known_variables=frozenset({"MODEL", "MOONCAKE_PROTOCOL", "PROXY_PORT", "VLLM_HOST_IP"}),
    bad_settings=(),
)
WELL_WITH_DOCKER = replace(WELL, with_docker=True, engine="28.2.2", compose="2.26.1")


@pytest.mark.parametrize("facts", [WELL, WELL_WITH_DOCKER], ids=["processes", "docker"])
def test_nothing_to_say_about_a_machine_that_is_well(facts: Facts) -> None:
    assert judge(facts) == []


CASES = {
    "store with docker": (
        replace(WELL_WITH_DOCKER, store_asked_for=True),
        "error: STACK_STORE: found true, with Docker; needed compose.store.yaml, which starts it there; "
        "fix: append `:compose.store.yaml` to COMPOSE_FILE: docs/store.md",
    ),
    "store over rdma": (
        replace(WELL_WITH_DOCKER, overlays=("compose.yaml", "compose.rdma.yaml", "compose.store.yaml")),
        "error: COMPOSE_FILE: found compose.store.yaml and compose.rdma.yaml; needed one: from the host's network "
        "nobody finds that store; fix: leave compose.store.yaml out, start a store yourself and name it in "
        "STORE_MASTER: docs/store.md",
    ),
    "a store and another's overlay": (
        replace(WELL_WITH_DOCKER, overlays=("compose.yaml", "compose.store.yaml"), store_master="10.0.0.9:50051"),
        "error: STORE_MASTER: found 10.0.0.9:50051, and compose.store.yaml; needed one store; fix: leave "
        "compose.store.yaml out to use that one, or unset STORE_MASTER for one of this stack's own",
    ),
    "two stores": (
        replace(WELL, store_asked_for=True, store_mib=1024, store_master="10.0.0.9:50051"),
        "error: STORE_MASTER: found 10.0.0.9:50051, and STACK_STORE=true; needed one store; fix: leave STACK_STORE out "
        "to use that one, or unset STORE_MASTER for one of this stack's own",
    ),
    "masters of no store": (
        replace(WELL, store_masters=2),
        "warning: STORE_MASTERS: found 2, without a store; needed a KV store; fix: set STACK_STORE=true, or append "
        "`:compose.store.yaml` to COMPOSE_FILE: docs/store.md",
    ),
    "two masters and a disk in containers": (
        replace(
            WELL_WITH_DOCKER, store_masters=2, overlays=("compose.yaml", "compose.store.yaml"), store_has_disk=True
        ),
        "error: STORE_MASTERS: found 2, with STORE_DISK_BYTES in containers; needed one master with a disk; fix: unset "
        "one of them: new containers would find nothing of what is on the disk, and fail to load it",
    ),
    "a store that is too large": (
        replace(WELL, store_asked_for=True, store_mib=16384),
        "warning: memory: found 20000 MiB available of 24000; needed about 22484 MiB for 2 instances of this model and "
        "the KV store of 16384; fix: end other programs, or lower PREFILL_REPLICAS or DECODE_REPLICAS or STORE_BYTES",
    ),
    "old python": (
        replace(WELL, python=(3, 10)),
        "error: Python: found 3.10; needed >= 3.11; fix: install python3.11 and `make clean up`",
    ),
    "port in use": (
        replace(WELL, ports=(Port(8000, "proxy", "PROXY_PORT", "nginx (pid 7)"),)),
        "error: port 8000: found used by nginx (pid 7); needed free for proxy; "
        "fix: end that program, or set PROXY_PORT to another port",
    ),
    "one port given twice": (
        replace(WELL, ports=(Port(8100, "prefill", "PREFILL_PORT"), Port(8100, "proxy", "PROXY_PORT"))),
        "error: port 8100: found prefill (PREFILL_PORT=8100) and proxy (PROXY_PORT=8100); needed a port for each; "
        "fix: set PREFILL_PORT or PROXY_PORT to another port",
    ),
    "replicas that share the host's network": (
        replace(
            WELL_WITH_DOCKER,
            ports=(
                Port(8200, "decode-0", "DECODE_PORT", replicas="DECODE_REPLICAS"),
                Port(8200, "decode-1", "DECODE_PORT", replicas="DECODE_REPLICAS"),
            ),
        ),
        "error: port 8200: found decode-0 (DECODE_PORT=8200) and decode-1 (DECODE_PORT=8200); needed a port for each; "
        "fix: set DECODE_REPLICAS to 1",
    ),
    "a port that nobody can set": (
        replace(WELL, ports=(Port(5557, "proxy", "PROXY_PORT"), Port(5557, "the load test's workers", ""))),
        "error: port 5557: found proxy (PROXY_PORT=5557) and the load test's workers (always 5557); "
        "needed a port for each; fix: set PROXY_PORT to another port",
    ),
    "port beyond the last": (
        replace(WELL, ports=(Port(65536, "decode-1", "DECODE_PORT", None, 65535, "DECODE_REPLICAS"),)),
        "error: port 65536: found decode-1 (DECODE_PORT=65535); needed at most 65535; "
        "fix: lower DECODE_PORT or DECODE_REPLICAS",
    ),
    "ranks beyond the last port": (
        replace(
            WELL,
            ports=tuple(
                Port(number, "decode's control channel", "CONTROL_PORT", first=65035)
                for number in (65535, 65536, 65537)
            ),
        ),
        "error: port 65536: found decode's control channel (CONTROL_PORT=65035); needed at most 65535; "
        "fix: lower CONTROL_PORT",
    ),
    "little memory available": (
        replace(WELL, memory_available=3000),
        "warning: memory: found 3000 MiB available of 24000; needed about 6100 MiB for 2 instances of this model; "
        "fix: end other programs, or lower PREFILL_REPLICAS or DECODE_REPLICAS",
    ),
    "little memory at all": (
        replace(WELL, memory_total=4000, memory_available=3000, embedded_model=False),
        "error: memory: found 3000 MiB available of 4000; needed about 6100 MiB for 2 instances of the embedded model, "
        "MODEL may need more; fix: end other programs, or lower PREFILL_REPLICAS or DECODE_REPLICAS",
    ),
    "little memory in a container": (
        replace(WELL, memory_total=3072, memory_available=3000, memory_limited=True),
        "error: memory: found 3000 MiB available of 3072, the limit of a control group (cgroup); needed about 6100 MiB "
        "for 2 instances of this model; fix: raise that limit, or lower PREFILL_REPLICAS or DECODE_REPLICAS",
    ),
    "little disk": (
        replace(WELL, disk_free=900),
        "error: disk: found 900 MiB free at /srv; needed about 4000 MiB for the set-up; "
        "fix: free some, or set STACK_DIR to a folder on a larger disk",
    ),
    "library missing, apt allowed": (
        replace(WELL, missing_packages=(VERBS,), apt_may_install=True),
        "warning: libibverbs1: found no libibverbs.so.1; needed libibverbs.so.1 (Mooncake's engine); "
        "fix: `make up` installs it",
    ),
    "library missing": (
        replace(WELL, missing_packages=(VERBS,)),
        "error: libibverbs1: found no libibverbs.so.1; needed libibverbs.so.1 (Mooncake's engine); "
        "fix: sudo apt-get install --no-install-recommends libibverbs1",
    ),
    "no engine": (
        replace(WELL_WITH_DOCKER, engine=None),
        "error: Docker engine: found none that answers `docker info`; needed a running engine; "
        "fix: start it, or set STACK_MODE=processes",
    ),
    "no compose": (
        replace(WELL_WITH_DOCKER, compose=None),
        "error: docker compose: found none; needed v2.20 or newer; "
        "fix: install the docker-compose-plugin, or set STACK_MODE=processes",
    ),
    "old compose": (
        replace(WELL_WITH_DOCKER, compose="v2.3.4"),
        "error: docker compose: found v2.3.4; needed v2.20 or newer; "
        "fix: update the docker-compose-plugin, or set STACK_MODE=processes",
    ),
    "overlay that is no file": (
        replace(WELL, missing_overlays=("compose.gpus.yaml",)),
        "error: COMPOSE_FILE: found 'compose.gpus.yaml', which is no file; needed names of files in this folder; "
        "fix: correct COMPOSE_FILE; files are separated by `:`",
    ),
    "baseline over rdma": (
        replace(WELL, overlays=("compose.yaml", "compose.rdma.yaml", "compose.baseline.yaml")),
        "error: COMPOSE_FILE: found compose.baseline.yaml and compose.rdma.yaml; needed one: aggregated servers "
        "transfer nothing; fix: take one of them out of COMPOSE_FILE",
    ),
    "observability over rdma": (
        replace(WELL_WITH_DOCKER, overlays=("compose.yaml", "compose.rdma.yaml", "compose.observability.yaml")),
        "error: COMPOSE_FILE: found compose.observability.yaml and compose.rdma.yaml; needed one: on the host's "
        "network nobody is found; fix: leave compose.observability.yaml out, and start a Prometheus of your own: "
        "docs/observability.md",
    ),
    "no gpu": (
        replace(WELL, wants_gpu=True),
        "error: GPU: found none that nvidia-smi lists; needed one for compose.gpu.yaml; "
        "fix: install the NVIDIA driver, or take compose.gpu.yaml out of COMPOSE_FILE",
    ),
    "no rdma": (
        replace(WELL, wants_rdma=True),
        "error: RDMA: found nothing in /sys/class/infiniband; needed a device for the protocol rdma; fix: load the "
        "device's driver, or set MOONCAKE_PROTOCOL=tcp and take compose.rdma.yaml out of COMPOSE_FILE",
    ),
    "misspelt variable": (
        replace(WELL, env_entries=(Entry(4, "MOONCAKE_PROTOKOL", "…"),)),
        "warning: MOONCAKE_PROTOKOL: found in .env:4; needed a variable of .env.example; "
        "fix: did you mean MOONCAKE_PROTOCOL?",
    ),
    "misspelt variable with the beginning of vLLM's": (
        replace(WELL, env_entries=(Entry(4, "VLLM_HOST_IPP", "…"),)),
        "warning: VLLM_HOST_IPP: found in .env:4; needed a variable of .env.example; fix: did you mean VLLM_HOST_IP?",
    ),
    "unknown variable": (
        replace(WELL, env_entries=(Entry(4, "FLUX", "FLUX=1"),)),
        "warning: FLUX: found in .env:4; needed a variable of .env.example; fix: remove it; .env.example has all names",
    ),
    "variable without effect": (
        replace(WELL, env_entries=(Entry(2, "MASTER_ADDR", "MASTER_ADDR=x"),)),
        "warning: MASTER_ADDR: found set, without effect; needed nothing: the process group that it configured no "
        "longer exists; fix: remove it from .env:2",
    ),
    "no assignment": (
        replace(WELL, env_entries=(Entry(9, None, "what is this?", problem="expected NAME=value"),)),
        "error: .env:9: found a line without =; needed NAME=value; fix: correct or remove the line",
    ),
    "value that compose refuses": (
        replace(WELL, env_entries=(Entry(9, "MODEL", "MODEL='x", problem="expected another ' at the end"),)),
        "error: .env:9: found MODEL; needed another ' at the end; fix: correct or remove the line",
    ),
    "dollar sign that was meant as such": (
        replace(WELL, env_entries=(Entry(9, "MODEL", "MODEL=a$b", "a", unset=("b",)),)),
        "warning: MODEL: found a $ in .env:9 with a name behind it that is not set; needed a variable that is set: "
        "this one becomes nothing; fix: write $$ for a dollar sign, or put the value in single quotes",
    ),
    "address of another machine": (
        replace(
            WELL,
            unusable_addresses=(
                Unusable("VLLM_HOST_IP", "192.0.2.7", "an address of this machine", "this machine has no such address"),
            ),
        ),
        "error: VLLM_HOST_IP: found '192.0.2.7', this machine has no such address; needed an address of this machine; "
        "fix: correct it in .env or in the environment",
    ),
    "etcd elsewhere that does not answer": (
        replace(
            WELL,
            unusable_addresses=(
                Unusable("ETCD_ENDPOINT", "a:1", "an etcd that runs", "where nobody answers (in time)", "warning"),
            ),
        ),
        "warning: ETCD_ENDPOINT: found 'a:1', where nobody answers (in time); needed an etcd that runs; "
        "fix: correct it in .env or in the environment",
    ),
    "a key of another program's mooncake.json": (
        replace(WELL, keys_without_effect=("local_hostname",)),
        "warning: MOONCAKE_CONFIG_PATH: found local_hostname, without effect; needed nothing: this stack has no use "
        "for it; fix: leave it or remove it",
    ),
    "impossible value": (
        replace(WELL, bad_settings=("MOONCAKE_PROTOCOL='rmda': Input should be 'tcp', 'rdma' or 'nvlink_intra'",)),
        "error: MOONCAKE_PROTOCOL: found 'rmda'; needed 'tcp', 'rdma' or 'nvlink_intra'; "
        "fix: correct it in .env or in the environment",
    ),
}


@pytest.mark.parametrize(("facts", "line"), CASES.values(), ids=CASES.keys())
def test_each_trouble_is_one_line(facts: Facts, line: str) -> None:
    assert [str(finding) for finding in judge(facts)] == [line]


@pytest.mark.parametrize(
    "facts",
    [
        replace(WELL, wants_gpu=True, gpus=("GPU 0: H100",)),
        replace(WELL, wants_rdma=True, rdma_devices=("mlx5_0",)),
        replace(WELL, disk_needed=0, disk_free=10),
        replace(WELL, instances=0, memory_available=10),
        replace(WELL, env_entries=(Entry(1, "VLLM_LOGGING_LEVEL", "VLLM_LOGGING_LEVEL=DEBUG"),)),
    ],
    ids=["gpu is there", "rdma is there", "nothing to install", "nothing to start", "a variable of vLLM's own"],
)
def test_no_finding(facts: Facts) -> None:
    assert judge(facts) == []
