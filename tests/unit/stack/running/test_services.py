"""Which services there are, on which ports, and what each is told."""

from dataclasses import replace
from pathlib import Path

import pytest

from stack.configuration.settings import StackSettings
from stack.running.service import Service
from stack.running.services import DECODE_CONTROL_OFFSET, services, shared_environment
from stack.running.store import IO_THREADS
from stack.store import cluster


def by_name(settings: StackSettings) -> dict[str, Service]:
    return {service.name: service for service in services(settings)}


def test_the_seed_documents_ports() -> None:
    assert {name: service.ports for name, service in by_name(StackSettings()).items()} == {
        "etcd": (2379,),
        "prefill": (8100,),
        "decode": (8200,),
        "proxy": (8000,),
        "loadtest": (8089,),
    }


def test_replicas_take_the_next_ports() -> None:
    decode = by_name(StackSettings(decode_replicas=3))["decode"]

    assert decode.ports == (8200, 8201, 8202)
    assert decode.health_url(2) == "http://127.0.0.1:8202/health"
    assert decode.process(2) == "decode-2"


def test_a_host_can_run_a_part_of_the_stack() -> None:
    assert list(by_name(StackSettings(stack_services=("decode",)))) == ["decode"]
    assert "prefill" not in by_name(StackSettings(prefill_replicas=0))


def test_etcd_listens_for_other_hosts_only_where_they_are_told_of_one() -> None:
    alone = by_name(StackSettings())["etcd"].command
    shared = by_name(StackSettings(vllm_host_ip="10.1.2.3"))["etcd"].command

    assert "--listen-client-urls=http://127.0.0.1:2379" in alone
    assert "--listen-client-urls=http://10.1.2.3:2379,http://127.0.0.1:2379" in shared


@pytest.mark.parametrize(
    ("variables", "listens"),
    [
        ({"vllm_host_ip": "::1"}, "http://127.0.0.1:2379,http://[::1]:2379"),
        ({"vllm_host_ip": "localhost"}, "http://127.0.0.1:2379"),
        ({"etcd_endpoint": "[::1]:2379"}, "http://127.0.0.1:2379,http://[::1]:2379"),
        ({"etcd_endpoint": "localhost"}, "http://127.0.0.1:2379"),
        ({"etcd_endpoint": "[::1]:4000"}, "http://127.0.0.1:2379"),
        ({"etcd_endpoint": "192.0.2.7:2379"}, "http://127.0.0.1:2379"),
        ({"etcd_endpoint": "0.0.0.0:2379"}, "http://127.0.0.1:2379"),
        ({"etcd_endpoint": "a..b:2379"}, "http://127.0.0.1:2379"),
    ],
    ids=[
        "of IPv6",
        "a name",
        "the endpoint's",
        "the same by name",
        "another port",
        "another host",
        "everywhere",
        "no host",
    ],
)
def test_etcd_listens_on_addresses_each_once_and_where_its_clients_look_for_it(
    variables: dict[str, str], listens: str
) -> None:
    command = by_name(StackSettings.model_validate(variables))["etcd"].command

    assert f"--listen-client-urls={listens}" in command
    assert f"--advertise-client-urls={listens}" in command


def test_urls_of_ipv6_have_brackets() -> None:
    chosen = by_name(StackSettings(bind_address="::1", vllm_host_ip="2001:db8::7"))

    assert chosen["proxy"].health_url(0) == "http://[::1]:8000/health"
    assert chosen["decode"].url(0) == "http://[2001:db8::7]:8200"
    assert chosen["loadtest"].environment == {
        "LOADTEST_TARGET": "http://[::1]:8000",
        "LISTEN_HOST": "::1",
        "CONSOLE_PORT": "8000",
    }


def test_control_ports_of_both_roles_keep_apart() -> None:
    chosen = by_name(StackSettings(control_port=20000))

    assert chosen["prefill"].environment["CONTROL_PORT"] == "20000"
    assert chosen["decode"].environment["CONTROL_PORT"] == str(20000 + DECODE_CONTROL_OFFSET)
    assert "CONTROL_PORT" not in by_name(StackSettings())["decode"].environment


def test_the_gpu_overlay_gives_each_role_its_gpus() -> None:
    settings = StackSettings(compose_file="compose.yaml:compose.gpu.yaml", prefill_gpu="0,1", decode_gpu="2")
    chosen = by_name(settings)

    assert chosen["prefill"].environment["CUDA_VISIBLE_DEVICES"] == "0,1"
    assert chosen["decode"].environment["CUDA_VISIBLE_DEVICES"] == "2"


def test_the_baseline_turns_both_into_aggregated_servers_on_the_same_ports_and_gpus() -> None:
    files = "compose.yaml:compose.gpu.yaml"
    usual = by_name(StackSettings(compose_file=files, prefill_replicas=2))
    baseline = by_name(StackSettings(compose_file=f"{files}:compose.baseline.yaml", prefill_replicas=2))

    told = {"VLLM_DISTRIBUTED_KV_ROLE", "AGGREGATED_PORT"}
    for name, port in (("prefill", "8100"), ("decode", "8200")):
        environment = baseline[name].environment
        assert {variable: environment[variable] for variable in told} == {
            "VLLM_DISTRIBUTED_KV_ROLE": "aggregated",
            "AGGREGATED_PORT": port,
        }
        rest = {variable: value for variable, value in usual[name].environment.items() if variable not in told}
        assert environment.items() >= rest.items()
        assert replace(baseline[name], environment={}) == replace(usual[name], environment={})
    assert (baseline["proxy"], baseline["loadtest"]) == (usual["proxy"], usual["loadtest"])


def test_locust_aims_at_the_proxy_and_listens_where_env_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LOADTEST_TARGET", raising=False)
    settings = StackSettings(bind_address="10.0.0.5", proxy_port=9000)
    here = {"LISTEN_HOST": "10.0.0.5"}

    assert by_name(settings)["loadtest"].environment == here | {
        "LOADTEST_TARGET": "http://10.0.0.5:9000",
        "CONSOLE_PORT": "9000",
    }
    monkeypatch.setenv("LOADTEST_TARGET", "http://other:8000")  # whose console is not this stack's
    assert by_name(settings)["loadtest"].environment == here | {"LOADTEST_TARGET": "http://other:8000"}


def test_every_service_gets_absolute_folders_and_one_etcd(tmp_path: Path) -> None:
    shared = shared_environment(StackSettings(stack_dir=tmp_path, etcd_port=4000))

    assert shared["STACK_DIR"] == str(tmp_path)
    assert shared["MODEL_DIR"] == str(tmp_path / "models")
    assert shared["STACK_KEY_FILE"] == str(tmp_path / "stack.key")
    assert shared["ETCD_ENDPOINT"] == "127.0.0.1:4000"


def test_a_store_runs_where_it_is_asked_for_beside_instances() -> None:
    settings = StackSettings(stack_store=True, vllm_host_ip="127.0.0.5", store_port=4000, store_bytes=1 << 27)
    found = by_name(settings)
    assert [*found][-2:] == ["store-master", "store"]
    assert found["store-master"].health_url(0) == "http://127.0.0.5:4001/health"
    assert found["store"].health_url(0) == "http://127.0.0.1:4003/health"
    assert Path(found["store"].command[0]).parent == Path(found["prefill"].command[0]).parent
    assert {"--master_server_address=127.0.0.5:4000", "--global_segment_size=134217728"} <= {*found["store"].command}
    assert found["store"].environment == cluster.RPC_TIMEOUTS
    assert [found[role].environment["STORE_MASTER"] for role in ("prefill", "decode")] == ["127.0.0.5:4000"] * 2

    without = by_name(StackSettings())
    assert not [name for name in without if name.startswith("store")]
    assert "STORE_MASTER" not in without["prefill"].environment
    assert [*by_name(settings.model_copy(update={"stack_services": ("proxy",)}))] == ["proxy"]


def test_two_masters_are_one_program_and_everybody_else_finds_their_leader_in_etcd() -> None:
    settings = StackSettings(stack_store=True, store_masters=2, vllm_host_ip="127.0.0.5", store_port=4000)
    found = by_name(settings)
    masters = found["store-master"]
    assert [masters.health_url(index) for index in range(masters.replicas)] == [
        "http://127.0.0.5:4001/health",
        "http://127.0.0.5:4005/health",
    ]
    words = {"--host=127.0.0.5", "--rpc-ports=4000,4004", "--http-ports=4001,4005", "--etcd=127.0.0.5:2379"}
    assert words <= {*masters.command}
    owner = found["store"].command
    assert owner[1:4] == ("-m", "stack.store.owner", "etcd://127.0.0.5:2379"), "which waits until one of them leads"
    assert "--master_server_address=etcd://127.0.0.5:2379" in owner
    assert found["store"].environment == {"MC_STORE_CLUSTER_ID": "pd-stack", **cluster.RPC_TIMEOUTS}
    assert [found[role].environment["STORE_MASTER"] for role in ("prefill", "decode")] == ["etcd://127.0.0.5:2379"] * 2


@pytest.mark.parametrize("masters", [1, 2])
def test_a_disk_behind_the_stores_memory_is_in_the_stacks_folder_and_has_a_bound(tmp_path: Path, masters: int) -> None:
    size = 64 << 20
    settings = StackSettings(stack_store=True, store_disk_bytes=size, store_masters=masters, stack_dir=tmp_path)
    found = by_name(settings)
    assert [found[name].command[-1] for name in ("store-master", "store")] == ["--enable_offload"] * 2
    assert found["store"].environment["MOONCAKE_OFFLOAD_FILE_STORAGE_PATH"] == str(tmp_path / "store")
    # So many files of a block of 64 KiB, each with two pages more, and none is left over to make a file full.
    blocks = int(found["store"].environment["MOONCAKE_OFFLOAD_BUCKET_MAX_TOTAL_SIZE"]) // (64 << 10)
    assert size * 0.99 < blocks * ((64 << 10) + 2 * 4096) <= size
    assert found["store"].environment["MOONCAKE_OFFLOAD_BUCKET_KEYS_LIMIT"] == "1"


def test_the_stores_overlay_counts_as_stack_store_does() -> None:
    assert by_name(StackSettings(compose_file="compose.yaml:compose.store.yaml")) == by_name(
        StackSettings(stack_store=True)
    )


def test_on_gpus_the_store_finds_cudas_library_and_no_gpu(tmp_path: Path) -> None:
    settings = StackSettings(stack_store=True, compose_file="compose.yaml:compose.gpu.yaml", stack_venv_dir=tmp_path)
    library = tmp_path / "vllm/lib/python3.11/site-packages/nvidia/cu13/lib"
    for_cuda = {"LD_LIBRARY_PATH": str(library), "CUDA_VISIBLE_DEVICES": "", **IO_THREADS}
    assert by_name(settings)["store"].environment == {**for_cuda, **cluster.RPC_TIMEOUTS}


def test_prometheus_comes_with_its_overlay_and_only_beside_the_proxy() -> None:
    observed = StackSettings(compose_file="compose.yaml:compose.observability.yaml", prometheus_port=9999)
    found = by_name(observed)
    assert [*found][-1] == "prometheus"
    assert found["prometheus"].health_url(0) == "http://127.0.0.1:9999/-/ready"
    assert found["prometheus"].command[1:] == ("-m", "observability.prometheus")
    assert "prometheus" not in by_name(StackSettings())
    assert [*by_name(observed.model_copy(update={"stack_services": ("decode",)}))] == ["decode"]
