from pathlib import Path

import pytest

from benchmarks.ports import free_ports
from benchmarks.processes import Processes
from benchmarks.whole_stack.stack_side import StackSide
from proxy.settings import ProxySettings
from stack.configuration.environment import load
from stack.configuration.settings import StackSettings
from stack.running.ports import given_twice, to_be_used


def test_two_instances_of_each_role_and_a_store_have_ports_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"PREFILL_REPLICAS": "2", "DECODE_REPLICAS": "2", "STACK_STORE": "true"}.items():
        monkeypatch.setenv(name, value)
    with Processes(tmp_path / "logs") as processes:
        side = StackSide(load(StackSettings), Path("python"), tmp_path, free_ports(), processes)
        for name, value in side.variables({}, "compose.yaml").items():
            monkeypatch.setenv(name, value)

    ports = to_be_used(load(StackSettings), with_docker=False)

    assert {port.service for port in ports} >= {"store-master", "prefill-1's control channel"}
    assert list(given_twice(ports)) == []


def test_its_proxy_asks_for_no_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = tmp_path / "keys"
    keys.write_text("one\n")
    users = {"PROXY_API_KEYS": "another", "PROXY_API_KEYS_FILE": str(keys)}
    with Processes(tmp_path / "logs") as processes:
        side = StackSide(load(StackSettings), Path("python"), tmp_path, free_ports(), processes)
        for name, value in {**users, **side.variables(users, "compose.yaml")}.items():
            monkeypatch.setenv(name, value)
    settings = load(ProxySettings)
    assert (settings.proxy_api_keys, settings.proxy_api_keys_file) == (None, None)
