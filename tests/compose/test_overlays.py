"""compose accepts every combination of files, and the merged result carries what the hardware needs."""

import json
import os
import subprocess
from typing import Any

import pytest

from stack.configuration.settings import REPOSITORY

GPU = "compose.gpu.yaml"
CDI = "compose.cdi.yaml"
NVLINK = "compose.nvlink.yaml"
RDMA = "compose.rdma.yaml"
BASELINE = "compose.baseline.yaml"
STORE = "compose.store.yaml"
OBSERVABILITY = "compose.observability.yaml"
VARIABLES = {"PREFILL_GPU": "2", "DECODE_GPU": "3", "VLLM_HOST_IP": "192.0.2.7", "BIND_ADDRESS": "192.0.2.8"}


def merged(*overlays: str, **variables: str) -> dict[str, Any]:
    """Service name -> its merged definition."""
    files = [part for name in ("compose.yaml", *overlays) for part in ("--file", name)]
    printed = subprocess.run(
        ["docker", "compose", "--env-file", os.devnull, *files, "config", "--format", "json"],
        cwd=REPOSITORY,
        env={**os.environ, **VARIABLES, **variables},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    ).stdout
    services: dict[str, Any] = json.loads(printed)["services"]
    return services


@pytest.mark.parametrize(
    "overlays",
    [
        (),
        (GPU,),
        (GPU, CDI),
        (GPU, NVLINK),
        (GPU, CDI, NVLINK),
        (RDMA,),
        (GPU, RDMA),
        (GPU, CDI, RDMA),
        (BASELINE,),
        (GPU, BASELINE),
        (STORE,),
        (GPU, CDI, STORE),
    ],
    ids="+".join,
)
def test_no_combination_of_files_loosens_a_container(overlays: tuple[str, ...]) -> None:
    for service in merged(*overlays).values():
        assert service["user"] == "10001:10001"
        assert service["read_only"]
        assert service["cap_drop"] == ["ALL"]
        assert not service.get("privileged")
        assert service["security_opt"] == ["no-new-privileges:true"]


@pytest.mark.parametrize("address", ["127.0.0.1", "0.0.0.0", "::1", "::"])
def test_ports_are_published_at_an_address_of_either_family(address: str) -> None:
    services = merged(BIND_ADDRESS=address)
    for name, port in (("proxy", 8000), ("loadtest", 8089)):
        (published,) = services[name]["ports"]
        assert (published["host_ip"], published["published"], published["target"]) == (address, str(port), port)


@pytest.mark.parametrize("overlays", [(), (GPU,), (GPU, CDI)], ids="+".join)
def test_the_baseline_differs_by_the_role_alone(overlays: tuple[str, ...]) -> None:
    usual, baseline = merged(*overlays), merged(*overlays, BASELINE)
    for name in ("prefill", "decode"):
        role = {
            "VLLM_DISTRIBUTED_KV_ROLE": "aggregated",
            "AGGREGATED_PORT": usual[name]["environment"][f"{name.upper()}_PORT"],
        }
        usual[name]["environment"] |= role
    assert baseline == usual


@pytest.mark.parametrize("overlays", [(GPU,), (GPU, RDMA), (GPU, BASELINE)], ids="+".join)
def test_each_role_gets_its_gpus_by_index(overlays: tuple[str, ...]) -> None:
    services = merged(*overlays)
    for name, index in (("prefill", "2"), ("decode", "3")):
        (device,) = services[name]["deploy"]["resources"]["reservations"]["devices"]
        assert device == {"driver": "nvidia", "device_ids": [index], "capabilities": ["gpu"]}
        assert services[name]["image"] == services["prepare"]["image"]
    assert services["prepare"]["build"]["target"] == "gpu"


@pytest.mark.parametrize("overlays", [(GPU, CDI), (GPU, CDI, RDMA), (GPU, CDI, BASELINE)], ids="+".join)
def test_without_nvidias_toolkit_each_role_gets_its_gpu_by_its_cdi_name(overlays: tuple[str, ...]) -> None:
    services = merged(*overlays)
    for name, index in (("prefill", "2"), ("decode", "3")):
        (device,) = services[name]["deploy"]["resources"]["reservations"]["devices"]
        assert device == {"driver": "cdi", "device_ids": [f"nvidia.com/gpu={index}"], "capabilities": ["gpu"]}


@pytest.mark.parametrize("overlays", [(GPU,), (GPU, CDI), (GPU, RDMA), (GPU, BASELINE)], ids="+".join)
def test_on_gpus_both_roles_share_a_pid_namespace_that_neither_holds(overlays: tuple[str, ...]) -> None:
    services = merged(*overlays)
    assert services["prefill"]["pid"] == services["decode"]["pid"] == "service:processes"
    assert "pid" not in services["processes"]
    assert services["processes"]["network_mode"] == "none"


@pytest.mark.parametrize(
    "overlays", [(GPU,), (GPU, CDI), (GPU, CDI, NVLINK), (GPU, RDMA), (GPU, BASELINE)], ids="+".join
)
def test_what_gpus_compile_at_run_time_goes_where_it_may_be_written_and_run(overlays: tuple[str, ...]) -> None:
    services = merged(*overlays)
    for name in ("prefill", "decode"):
        folder, options = services[name]["tmpfs"][-1].split(":")
        assert folder == services[name]["environment"]["HOME"]
        assert {"exec", "mode=1777"} <= set(options.split(","))


@pytest.mark.parametrize("overlays", [(RDMA,), (GPU, RDMA)], ids="+".join)
def test_rdma_gets_devices_locked_memory_and_the_hosts_network(overlays: tuple[str, ...]) -> None:
    services = merged(*overlays)
    for name in ("prefill", "decode"):
        assert services[name]["cap_add"] == ["IPC_LOCK"]
        assert services[name]["ulimits"]["memlock"] == {"soft": -1, "hard": -1}
        assert [device["source"] for device in services[name]["devices"]] == ["/dev/infiniband"]
        assert services[name]["environment"]["MOONCAKE_PROTOCOL"] == "rdma"
        assert services[name]["environment"]["LISTEN_HOST"] == "192.0.2.7"
    for name in ("etcd", "prefill", "decode", "proxy", "loadtest", "loadtest-worker"):
        assert services[name]["network_mode"] == "host"
        assert "networks" not in services[name]
        assert "ports" not in services[name]
    assert services["proxy"]["environment"]["PROXY_LISTEN_HOST"] == "192.0.2.8"


@pytest.mark.parametrize(
    "others", [(), (GPU,), (GPU, CDI), (BASELINE,), (GPU, BASELINE), (OBSERVABILITY,)], ids="+".join
)
def test_the_store_comes_with_its_overlay_alone_and_only_on_the_inside(others: tuple[str, ...]) -> None:
    usual, services = merged(*others), merged(*others, STORE)
    assert services == merged(STORE, *others)
    assert set(services) - set(usual) == {"store-master", "store"}
    for name in ("store-master", "store"):
        found = services.pop(name)
        assert list(found["networks"]) == ["inside"]
        assert found["image"] == services["prepare"]["image"]
        assert int(found["mem_limit"]) > 0
        assert not {"ports", "profiles"} & set(found)
        assert [volume["source"] for volume in found.get("volumes", [])] == (["store-disk"] if name == "store" else [])
    for name in ("prefill", "decode"):
        assert services[name]["environment"].pop("STORE_MASTER") == "store-master:50051"
        usual[name]["environment"].pop("STORE_MASTER")
    assert services == usual


@pytest.mark.parametrize("overlays", [(GPU,), (GPU, CDI)], ids="+".join)
def test_on_gpus_the_store_has_the_device_of_prefill_and_is_shown_none(overlays: tuple[str, ...]) -> None:
    services = merged(*overlays, STORE)
    assert services["store"]["deploy"] == services["prefill"]["deploy"]
    assert services["store"]["environment"]["CUDA_VISIBLE_DEVICES"] == ""


@pytest.mark.parametrize("hardware", [(), (GPU,), (BASELINE,), (GPU, CDI, NVLINK)], ids="+".join)
def test_observability_comes_on_top_of_all_that_is_not_on_the_hosts_network(hardware: tuple[str, ...]) -> None:
    services, usual = merged(*hardware, OBSERVABILITY), merged(*hardware)
    assert set(services) - set(usual) == {"prometheus", "grafana", "tempo", "collector"}
    for name in usual:
        more = (
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"} if name in ("prefill", "decode", "proxy") else {}
        )
        environment = (usual[name].get("environment") or {}) | more
        assert services[name] == usual[name] | ({"environment": environment} if environment else {})
    for port in services["prometheus"]["ports"] + services["grafana"]["ports"]:
        assert port["host_ip"] == "127.0.0.1"
