"""Rules that every service of the compose files keeps, read from the files themselves: no engine is needed."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from loadtest.settings import LoadTestSettings
from proxy.settings import ProxySettings
from stack.configuration.environment import Settings
from stack.configuration.settings import REPOSITORY, STORE, StackSettings
from stack.installation import environments
from stack.instances.settings import LauncherSettings
from stack.running.store import CUDA_LIBRARIES, FOR_BYTES, IO_THREADS, on_disk
from stack.store import cluster

OVERLAYS = ("gpu", "cdi", "nvlink", "rdma", "baseline", "store")
OBSERVABILITY = "compose.observability.yaml"  # its own services: test_observability.py
FILES = ("compose.yaml", *(f"compose.{overlay}.yaml" for overlay in OVERLAYS))
SERVICES = ("etcd", "prepare", "prefill", "decode", "proxy", "loadtest", "loadtest-worker")
ON_REQUEST = STORE  # in compose.yaml behind a profile, and compose.store.yaml takes it away
EVERY = (*SERVICES, *ON_REQUEST)
LONG_RUNNING = tuple(name for name in EVERY if name != "prepare")
ON_GPUS = "processes"  # what compose.gpu.yaml adds
STORE_MASTER = {"STORE_MASTER": "store-master:50051"}


class ComposeLoader(yaml.SafeLoader):
    """YAML with compose's own tags.

    `!reset` takes away what an earlier file said, so it stands for nothing; `!override` puts a list in its place.
    """


ComposeLoader.add_constructor("!reset", lambda loader, node: None)
ComposeLoader.add_constructor("!override", yaml.SafeLoader.yaml_constructors["tag:yaml.org,2002:seq"])


def load(name: str) -> dict[str, Any]:
    content: dict[str, Any] = yaml.load((REPOSITORY / name).read_text(), ComposeLoader)
    return content


def service(name: str) -> dict[str, Any]:
    file = "compose.gpu.yaml" if name == ON_GPUS else "compose.yaml"
    found: dict[str, Any] = load(file)["services"][name]
    return found


def test_the_services_are_those_of_the_readme() -> None:
    services = load("compose.yaml")["services"]
    assert set(services) == set(EVERY)
    assert {name for name, found in services.items() if "profiles" in found} == set(ON_REQUEST)


@pytest.mark.parametrize("file", FILES)
def test_overlays_only_change_services_of_the_stack(file: str) -> None:
    added = {ON_GPUS} if file == "compose.gpu.yaml" else set()
    assert set(load(file)["services"]) - set(EVERY) == added


def test_observability_changes_where_spans_go_and_nothing_else_of_the_stack() -> None:
    traced = {"environment": {"OTEL_EXPORTER_OTLP_ENDPOINT": "${OTEL_EXPORTER_OTLP_ENDPOINT:-http://collector:4318}"}}
    changed = {name: found for name, found in load(OBSERVABILITY)["services"].items() if name in SERVICES}
    assert changed == dict.fromkeys(("prefill", "decode", "proxy"), traced)


@pytest.mark.parametrize("name", [*EVERY, ON_GPUS])
def test_every_service_is_confined_and_bounded(name: str) -> None:
    found = service(name)
    assert found["user"] == "10001:10001"
    assert found["read_only"] is True
    assert found["cap_drop"] == ["ALL"]
    assert found["security_opt"] == ["no-new-privileges:true"]
    assert found["init"] is True
    assert found["mem_limit"]
    assert found["pids_limit"]
    assert found["stop_grace_period"]
    assert found["logging"]["options"] == {"max-size": "10m", "max-file": "3"}


@pytest.mark.parametrize("name", LONG_RUNNING)
def test_every_service_that_stays_is_checked_and_restarted(name: str) -> None:
    found = service(name)
    assert {"test", "interval", "timeout", "retries", "start_period"} == set(found["healthcheck"])
    assert found["restart"] == "unless-stopped"


@pytest.mark.parametrize("file", FILES)
def test_nothing_is_privileged_and_only_ipc_lock_is_ever_added(file: str) -> None:
    for found in load(file)["services"].values():
        assert "privileged" not in found
        assert found.get("cap_add", ["IPC_LOCK"]) == ["IPC_LOCK"]


def test_only_the_proxy_and_locust_publish_a_port_and_bind_address_decides_where() -> None:
    published = {name: service(name)["ports"] for name in EVERY if "ports" in service(name)}
    host = "${BIND_ADDRESS:-127.0.0.1}"  # in the short form an IPv6 address would need brackets
    assert published == {
        "proxy": [{"host_ip": host, "published": "${PROXY_PORT:-8000}", "target": 8000}],
        "loadtest": [{"host_ip": host, "published": "${LOCUST_PORT:-8089}", "target": 8089}],
    }


def test_etcd_and_the_instances_are_on_the_internal_network_only() -> None:
    assert load("compose.yaml")["networks"]["inside"] == {"internal": True}
    for name in ("etcd", "prefill", "decode", *STORE):
        assert service(name)["networks"] == ["inside"]


def test_what_has_no_way_out_asks_no_proxy() -> None:
    """Docker's configuration puts http_proxy into every container, and Go's gRPC would ask it for etcd."""
    for name in ("etcd", "prefill", "decode", *STORE):
        environment = service(name)["environment"]
        assert environment["NO_PROXY"] == environment["no_proxy"] == "*"


@pytest.mark.parametrize("file", FILES)
def test_health_is_asked_past_every_proxy(file: str) -> None:
    checks = {
        name: found["healthcheck"]["test"] for name, found in load(file)["services"].items() if "healthcheck" in found
    }
    over_http = {name: check[:-1] for name, check in checks.items() if str(check[-1]).startswith("http://")}
    assert set(checks) - set(over_http) <= {"etcd", "loadtest-worker"}
    assert all(check == ["CMD", "python", "-m", "stack.health"] for check in over_http.values())


@pytest.mark.parametrize("file", FILES)
def test_images_carry_a_version(file: str) -> None:
    for found in load(file)["services"].values():
        if "image" in found:
            assert re.fullmatch(r"pd-stack/\w+:\d+\.\d+\.\d+(-\w+)?", found["image"])


def test_prefill_decode_and_the_store_run_the_image_that_prepare_builds() -> None:
    for file in ("compose.yaml", "compose.gpu.yaml"):
        services = load(file)["services"]
        assert {services[name]["image"] for name in ("prefill", "decode", *STORE) if "image" in services[name]} == {
            services["prepare"]["image"]
        }
        assert all("image" in services[name] for name in STORE)
    assert [name for name in SERVICES if "build" not in service(name)] == [
        "prefill",
        "decode",
        "loadtest-worker",
    ]
    assert {service(name)["pull_policy"] for name in ("prefill", "decode", "loadtest-worker", *STORE)} == {"never"}
    assert service("loadtest-worker")["image"] == service("loadtest")["image"]


def test_instances_wait_for_etcd_and_for_the_model() -> None:
    for name in ("prefill", "decode"):
        assert service(name)["depends_on"] == {
            "etcd": {"condition": "service_healthy"},
            "prepare": {"condition": "service_completed_successfully"},
        }


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("prefill", LauncherSettings),
        ("decode", LauncherSettings),
        ("proxy", ProxySettings),
        ("loadtest", LoadTestSettings),
        ("loadtest-worker", LoadTestSettings),
    ],
)
def test_every_variable_of_a_program_reaches_its_container(name: str, settings: type[Settings]) -> None:
    # Where a service listens in its container is compose's business; a container holds one instance.
    decided_by_compose = {"BIND_ADDRESS", "INSTANCE_INDEX", "VLLM_HOST_IP", "CONTROL_PORT", "PROXY_PORT", "LISTEN_HOST"}
    decided_by_compose |= {"AGGREGATED_PORT"}
    expected = {field.upper() for field in settings.model_fields} - decided_by_compose
    assert expected - set(service(name)["environment"]) == set()


def test_the_cdi_overlay_changes_by_which_name_a_role_asks_for_its_gpu_and_nothing_else() -> None:
    cdi, gpu = load("compose.cdi.yaml"), load("compose.gpu.yaml")
    assert set(cdi) == {"services"}
    assert set(cdi["services"]) == {"prefill", "decode", "store"}
    for name, found in cdi["services"].items():
        (usual,) = gpu["services"][name]["deploy"]["resources"]["reservations"]["devices"]
        index = usual["device_ids"][0]
        device = {**usual, "driver": "cdi", "device_ids": [f"nvidia.com/gpu={index}"]}
        assert found == {"deploy": {"resources": {"reservations": {"devices": [device]}}}}


def test_the_nvlink_overlay_says_which_gpus_cuda_shows_a_role_and_nothing_else() -> None:
    assert load("compose.nvlink.yaml") == {
        "services": {
            name: {"environment": {"CUDA_VISIBLE_DEVICES": f"${{{name.upper()}_CUDA_DEVICES:-{gpu}}}"}}
            for name, gpu in (("prefill", 0), ("decode", 1))
        }
    }


def test_both_roles_on_gpus_live_in_the_pid_namespace_of_a_service_that_does_nothing_else() -> None:
    for name in ("prefill", "decode"):
        assert load("compose.gpu.yaml")["services"][name]["pid"] == f"service:{ON_GPUS}"
    assert service(ON_GPUS)["command"] == ["sleep", "infinity"]
    assert service(ON_GPUS)["network_mode"] == "none"


def test_the_baseline_changes_the_role_and_nothing_else() -> None:
    baseline = load("compose.baseline.yaml")
    assert set(baseline) == {"services"}
    assert set(baseline["services"]) == {"prefill", "decode"}
    for name, found in baseline["services"].items():
        port = service(name)["environment"][f"{name.upper()}_PORT"]
        assert found == {"environment": {"VLLM_DISTRIBUTED_KV_ROLE": "aggregated", "AGGREGATED_PORT": port}}


def test_the_stores_overlay_starts_it_and_names_it_to_the_instances_and_nothing_else() -> None:
    assert load("compose.store.yaml") == {
        "x-stored": {"environment": STORE_MASTER},
        "services": {
            "store-master": {"profiles": None},
            "store": {"profiles": None, "volumes": ["store-disk:/disk"]},
            **{name: {"environment": STORE_MASTER} for name in ("prefill", "decode")},
        },
        "volumes": {"store-disk": None},
    }


def test_the_stores_parts_meet_at_one_port_and_have_no_key_and_no_volume() -> None:
    host, port = STORE_MASTER["STORE_MASTER"].split(":")
    assert host in STORE
    master, owner = (service(name)["command"][-1] for name in (host, "store"))
    assert {f"--rpc_port={port}", f"--rpc-ports={port}"} <= {*master.split()}
    assert f"then master={host}:{port};" in owner
    assert 'exec python -m stack.store.owner "$$master" ' in owner
    assert service("store")["environment"].items() >= {**cluster.OF_CLIENTS, **cluster.RPC_TIMEOUTS}.items()
    assert f"--global_segment_size=${{STORE_BYTES:-{StackSettings().store_bytes}}}" in owner
    for name in STORE:
        assert not {"volumes", "secrets", "ports", "depends_on"} & set(service(name))
        asked = service(name)["healthcheck"]["test"][-1].removeprefix("http://127.0.0.1:").removesuffix("/health")
        assert re.search(rf"--(metrics|http)_port={asked}\b", " ".join(service(name)["command"]))
    of_disk = on_disk(Path("/disk"), 0)
    told = {
        name: value.replace("${STORE_DISK_BYTES:-0}", "0") for name, value in service("store")["environment"].items()
    }
    # What the command itself says, where there is a disk.
    exported = ("MOONCAKE_OFFLOAD_FILE_STORAGE_PATH", "MOONCAKE_OFFLOAD_BUCKET_MAX_TOTAL_SIZE")
    assert told.items() >= {name: value for name, value in of_disk.items() if name not in exported}.items()
    assert f"{exported[0]}=/disk/$$folder" in owner
    assert f"{exported[1]}=$$((${{STORE_DISK_BYTES:-0}} * {FOR_BYTES[0]} / {FOR_BYTES[1]}))" in owner
    assert re.search(r"--metrics_port=(\d+)[; ].*.* --http-ports=\1 ", master)


def test_on_gpus_the_stores_owner_gets_the_drivers_library_and_sees_no_gpu() -> None:
    services = load("compose.gpu.yaml")["services"]
    assert services["store"]["deploy"] == services["prefill"]["deploy"]
    packages = f"/opt/venv/lib/python{environments.LOCKED_PYTHON}/site-packages"
    assert services["store"]["environment"] == {
        "CUDA_VISIBLE_DEVICES": "",
        "LD_LIBRARY_PATH": f"{packages}/{CUDA_LIBRARIES}",
        **IO_THREADS,
    }


def test_one_pinned_base_image_everywhere() -> None:
    dockerfiles = sorted((REPOSITORY / "images").glob("*/Dockerfile"))
    pins = {_pinned(file) for file in dockerfiles}
    assert len(dockerfiles) == 4
    assert len(pins) == 1
    pin = pins.pop()
    assert re.fullmatch(r"debian:bookworm-\d{8}-slim@sha256:[0-9a-f]{64}", pin)
    for name in SERVICES:
        if "build" in service(name):
            assert service(name)["build"]["args"]["BASE_IMAGE"] == f"${{BASE_IMAGE:-{pin}}}"


def test_lent_wheels_reach_the_cpu_build_alone() -> None:
    """To an installer a lent torch 2.13.0+cpu is the GPU lock's torch 2.13.0, with a hash that is not locked."""
    stages = (REPOSITORY / "images/vllm/Dockerfile").read_text().split("\nFROM ")
    assert [stage.splitlines()[0] for stage in stages if "from=wheels" in stage] == ["builder AS builder-cpu"]


def _pinned(dockerfile: Path) -> str:
    matched = re.search(r"^ARG BASE_IMAGE=(.+)$", dockerfile.read_text(), re.MULTILINE)
    assert matched, dockerfile
    return matched[1]


def test_every_image_ends_as_the_ordinary_user() -> None:
    for dockerfile in sorted((REPOSITORY / "images").glob("*/Dockerfile")):
        last = dockerfile.read_text().split("\nFROM ")[-1]
        assert "\nUSER 10001:10001\n" in last
