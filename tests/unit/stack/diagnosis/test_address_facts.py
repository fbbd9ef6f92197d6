"""What the doctor finds out about addresses on a real machine, which has 127.0.0.1 and ::1."""

import json
import socket
from pathlib import Path
from typing import Any

import pytest

from stack.configuration.environment import load
from stack.configuration.settings import StackSettings
from stack.diagnosis.address_facts import Unusable, gather
from stack.instances.settings import LauncherSettings
from tests.unit.stack.waiting import free_port

RDMA = "compose.yaml:compose.rdma.yaml"
ELSEWHERE = "192.0.2.7"  # reserved for documents: no machine has it


def unusable(with_docker: bool = False, launcher: LauncherSettings | None = None, **variables: Any) -> dict[str, str]:
    """Variable -> why its value cannot be used."""
    found = gather(StackSettings(**variables), launcher, with_docker=with_docker)
    return {each.variable: each.reason for each in found}


@pytest.mark.parametrize("address", ["127.0.0.1", "::1", "::", "0.0.0.0", "localhost", "[::1]"])
def test_this_machines_addresses_are_fine(address: str) -> None:
    assert unusable(bind_address=address, listen_host=address, etcd_endpoint="localhost:2379") == {}


def test_an_address_of_another_machine_cannot_be_listened_on() -> None:
    reason = "this machine has no such address"
    found = unusable(bind_address=ELSEWHERE, vllm_host_ip=ELSEWHERE, listen_host=ELSEWHERE)
    assert found == dict.fromkeys(("BIND_ADDRESS", "VLLM_HOST_IP", "LISTEN_HOST"), reason)


def test_only_what_will_listen_here_is_looked_at() -> None:
    assert unusable(stack_services=("prefill",), bind_address=ELSEWHERE) == {}
    assert unusable(stack_services=("proxy",), vllm_host_ip=ELSEWHERE, listen_host=ELSEWHERE) == {}
    assert unusable(with_docker=True, vllm_host_ip=ELSEWHERE) == {}
    assert unusable(with_docker=True, vllm_host_ip=ELSEWHERE, compose_file=RDMA).keys() == {"VLLM_HOST_IP"}


def test_a_name_of_etcd_must_stand_for_an_address() -> None:
    (found,) = gather(StackSettings(etcd_endpoint="a..b:2379"), None, with_docker=False)
    needed = "an IP address or the name of a host, found none of that name (no host name)"
    assert found == Unusable("ETCD_ENDPOINT", "a..b:2379", needed)
    assert unusable(with_docker=True, etcd_endpoint="etcd:2379") == {}  # known in the containers' network alone


def test_an_etcd_that_is_not_started_here_has_to_be_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else instances would say so when they have loaded the model; it may still be started on another host, though."""
    monkeypatch.setenv("STACK_KEY", "0123456789abcdef")
    file = tmp_path / "mooncake.json"
    urls = {"prefill_url": "127.0.0.1:13003", "decode_url": "127.0.0.1:13503"}
    with socket.create_server(("127.0.0.1", 0)) as listener:
        there, nobody = listener.getsockname()[1], free_port()
        for port, reason in ((there, {}), (nobody, {"where nobody answers (Connection refused)"})):
            endpoint = f"127.0.0.1:{port}"
            assert {*unusable(etcd_endpoint=endpoint).values()} == {*reason}
            file.write_text(json.dumps(urls | {"metadata_server": f"etcd://{endpoint}"}))
            launcher = load(LauncherSettings, vllm_distributed_kv_role="producer", mooncake_config_path=file)
            assert {*unusable(launcher=launcher).values()} == {*reason}
    assert unusable(launcher=launcher, etcd_port=nobody) == {}, "which `make up` starts"
    (found,) = gather(StackSettings(stack_services=("proxy",), etcd_endpoint=endpoint), None, with_docker=False)
    assert found.severity == "warning"


@pytest.mark.parametrize("service", ["etcd", "prefill"])
def test_an_own_etcd_listens_on_the_addresses_that_are_given(service: str) -> None:
    settings = StackSettings(stack_services=(service,), vllm_host_ip="::1", etcd_port=free_port())
    endpoints = [f"127.0.0.1:{settings.etcd_port}", f"[::1]:{settings.etcd_port}"]
    silent = [
        endpoint
        for endpoint in endpoints
        if gather(settings.model_copy(update={"etcd_endpoint": endpoint}), None, with_docker=False)
    ]
    assert silent == ([] if service == "etcd" else endpoints)


def test_loopback_leads_nowhere_in_a_container(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loopback = "in a container the container itself"
    for endpoint in ("127.0.0.1:2379", "[::1]:2379", "localhost:2379"):
        assert unusable(with_docker=True, etcd_endpoint=endpoint) == {"ETCD_ENDPOINT": loopback}
        assert unusable(with_docker=True, etcd_endpoint=endpoint, compose_file=RDMA) == {}
    file = tmp_path / "mooncake.json"
    urls = {"prefill_url": "127.0.0.1:13003", "decode_url": "decode:13503", "metadata_server": "etcd://[::1]:2379"}
    file.write_text(json.dumps(urls))
    monkeypatch.setenv("STACK_KEY", "0123456789abcdef")
    launcher = load(LauncherSettings, vllm_distributed_kv_role="producer", mooncake_config_path=file)
    path = "MOONCAKE_CONFIG_PATH"
    found = unusable(with_docker=True, launcher=launcher)
    assert found == {f"{path}: metadata_server": loopback, f"{path}: prefill_url": loopback}
    assert loopback not in unusable(launcher=launcher).values()
