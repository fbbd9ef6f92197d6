"""Which ports a stack takes, and which of them it would take twice."""

import json
import os
import socket
from pathlib import Path
from typing import Any

import pytest

from stack.configuration.settings import StackSettings
from stack.running.ports import LAST_PORT, Port, given_twice, to_be_used


@pytest.fixture(autouse=True)
def _nothing_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CONTROL_PORT", "TENSOR_PARALLEL_SIZE", "MOONCAKE_CONFIG_PATH", "PROXY_LISTEN_HOST", "VLLM_HOST_IP"):
        monkeypatch.delenv(name, raising=False)


RDMA = "compose.yaml:compose.rdma.yaml"


def twice(*, with_docker: bool = False, **settings: Any) -> list[tuple[int, str, str]]:
    ports = to_be_used(StackSettings.model_validate(settings), with_docker=with_docker)
    return [(one.number, one.origin, other.origin) for one, other in given_twice(ports)]


@pytest.mark.parametrize("with_docker", [False, True], ids=["processes", "docker"])
@pytest.mark.parametrize("compose_file", ["compose.yaml", RDMA, "compose.yaml:compose.baseline.yaml"])
def test_the_defaults_keep_apart(compose_file: str, with_docker: bool) -> None:
    assert twice(compose_file=compose_file, with_docker=with_docker) == []


def test_as_many_replicas_and_ranks_as_there_may_be_keep_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TENSOR_PARALLEL_SIZE", "16")

    assert twice(prefill_replicas=16, decode_replicas=16) == []
    assert twice(prefill_replicas=16, decode_replicas=16, control_port=20000) == []


def test_data_parallel_engines_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each has its own ranks' control channels."""
    monkeypatch.setenv("TENSOR_PARALLEL_SIZE", "2")
    monkeypatch.setenv("DECODE_VLLM_EXTRA_ARGS", "--data-parallel-size 8")
    assert twice(prefill_replicas=2, decode_replicas=16) == []
    assert twice(decode_replicas=1, proxy_port=13518) == [
        (13518, "decode's control channel (CONTROL_PORT=0)", "proxy (PROXY_PORT=13518)")
    ]


def test_two_servers_cannot_wait_for_others_ranks_at_one_port(monkeypatch: pytest.MonkeyPatch) -> None:
    hybrid = "-dp 4 --data-parallel-hybrid-lb --data-parallel-size-local 2"
    monkeypatch.setenv("VLLM_EXTRA_ARGS", hybrid)
    ((number, one, other),) = twice()
    assert (number, one) == (29550, "prefill's data-parallel ranks (PREFILL_VLLM_EXTRA_ARGS=29550)")
    assert other == "decode's data-parallel ranks (DECODE_VLLM_EXTRA_ARGS=29550)"
    monkeypatch.setenv("DECODE_VLLM_EXTRA_ARGS", "--data-parallel-rpc-port 29551")
    assert twice() == []
    monkeypatch.setenv("DECODE_VLLM_EXTRA_ARGS", "--data-parallel-start-rank 2")  # it calls, and does not listen
    assert twice() == []


PREFILL, DECODE = "prefill (PREFILL_PORT=8100)", "decode (DECODE_PORT=8200)"


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"proxy_port": 8100}, (8100, PREFILL, "proxy (PROXY_PORT=8100)")),
        ({"prefill_port": 8200}, (8200, "prefill (PREFILL_PORT=8200)", DECODE)),
        ({"prefill_port": 8199, "prefill_replicas": 2}, (8200, "prefill-1 (PREFILL_PORT=8199)", DECODE)),
        ({"decode_replicas": 2, "proxy_port": 8201}, (8201, "decode-1 (DECODE_PORT=8200)", "proxy (PROXY_PORT=8201)")),
        ({"locust_port": 8000}, (8000, "proxy (PROXY_PORT=8000)", "loadtest (LOCUST_PORT=8000)")),
        ({"etcd_port": 8089}, (8089, "etcd (ETCD_PORT=8089)", "loadtest (LOCUST_PORT=8089)")),
        ({"control_port": 8100}, (8100, PREFILL, "prefill's control channel (CONTROL_PORT=8100)")),
        ({"control_port": 7700}, (8200, "decode's control channel (CONTROL_PORT=7700)", DECODE)),
        ({"proxy_port": 13003}, (13003, "prefill's control channel (CONTROL_PORT=0)", "proxy (PROXY_PORT=13003)")),
        (
            {"decode_replicas": 2, "proxy_port": 13519},
            (13519, "decode-1's control channel (CONTROL_PORT=0)", "proxy (PROXY_PORT=13519)"),
        ),
    ],
)
def test_one_port_for_two(settings: dict[str, Any], expected: tuple[int, str, str]) -> None:
    (found,) = twice(**settings)

    assert (found[0], {*found[1:]}) == (expected[0], {*expected[1:]})


def test_each_rank_has_a_control_port(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TENSOR_PARALLEL_SIZE", "4")

    assert twice(locust_port=13006) == [
        (13006, "prefill's control channel (CONTROL_PORT=0)", "loadtest (LOCUST_PORT=13006)")
    ]


@pytest.mark.parametrize(
    ("control_port", "ranks", "beyond"),
    [
        (65300, 1, {(65800, "decode's control channel")}),
        (65030, 8, {(65536, "decode's control channel"), (65537, "decode's control channel")}),
        (65535, 1, {(66035, "decode's control channel")}),
        (65035, 1, set()),
    ],
)
def test_control_ports_may_count_beyond_the_last(
    control_port: int, ranks: int, beyond: set[tuple[int, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TENSOR_PARALLEL_SIZE", str(ranks))
    ports = to_be_used(StackSettings(control_port=control_port), with_docker=False)

    assert {(port.number, port.service) for port in ports if port.number > LAST_PORT} == beyond
    assert {port.first for port in ports if port.number > LAST_PORT} <= {control_port}


def test_a_mooncake_json_may_count_beyond_the_last(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "mooncake.json"
    urls = {"prefill_url": "127.0.0.1:13003", "decode_url": "127.0.0.1:65535", "metadata_server": "127.0.0.1:2379"}
    file.write_text(json.dumps(urls))
    monkeypatch.setenv("MOONCAKE_CONFIG_PATH", str(file))
    monkeypatch.setenv("TENSOR_PARALLEL_SIZE", "2")
    ports = to_be_used(StackSettings(), with_docker=False)

    assert [port.origin for port in ports if port.number > LAST_PORT] == [
        "decode's control channel (decode_url of MOONCAKE_CONFIG_PATH=65535)"
    ]


def test_two_ranges_that_meet_are_told_once() -> None:
    assert len(twice(prefill_replicas=4, decode_replicas=4, prefill_port=8200)) == 1


def test_a_mooncake_json_may_give_one_port_twice(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "mooncake.json"
    urls = {"prefill_url": "127.0.0.1:13003", "decode_url": "127.0.0.1:13003", "metadata_server": "127.0.0.1:2379"}
    file.write_text(json.dumps(urls))
    monkeypatch.setenv("MOONCAKE_CONFIG_PATH", str(file))

    assert twice() == [
        (
            13003,
            "prefill's control channel (prefill_url of MOONCAKE_CONFIG_PATH=13003)",
            "decode's control channel (decode_url of MOONCAKE_CONFIG_PATH=13003)",
        )
    ]


def test_only_services_that_are_started_here_count() -> None:
    assert twice(proxy_port=8100, stack_services=("etcd", "decode", "proxy")) == []
    assert twice(proxy_port=8100, prefill_replicas=0) == []


def test_addresses_keep_apart_unless_one_is_every_address() -> None:
    assert twice(proxy_port=8100, vllm_host_ip="10.0.0.1") == []
    assert twice(proxy_port=2379, vllm_host_ip="10.0.0.1") != []  # etcd listens on both
    assert twice(proxy_port=8100, vllm_host_ip="10.0.0.1", bind_address="0.0.0.0") != []
    assert twice(proxy_port=8100, vllm_host_ip="10.0.0.1", listen_host="0.0.0.0") != []
    assert twice(proxy_port=8100, bind_address="localhost") != []


def test_in_containers_only_published_ports_meet() -> None:
    assert twice(proxy_port=8100, with_docker=True) == []
    assert twice(proxy_port=8089, with_docker=True) == [
        (8089, "proxy (PROXY_PORT=8089)", "loadtest (LOCUST_PORT=8089)")
    ]


def test_on_the_hosts_network_containers_are_like_processes_but_for_replicas() -> None:
    assert twice(proxy_port=8100, compose_file=RDMA, with_docker=True) == [(8100, PREFILL, "proxy (PROXY_PORT=8100)")]
    assert twice(decode_replicas=2, compose_file=RDMA, with_docker=True) == [
        (8200, "decode-0 (DECODE_PORT=8200)", "decode-1 (DECODE_PORT=8200)"),
        (13503, "decode-0's control channel (CONTROL_PORT=0)", "decode-1's control channel (CONTROL_PORT=0)"),
    ]
    assert twice(proxy_port=2379, vllm_host_ip="10.0.0.1", compose_file=RDMA, with_docker=True) == []
    assert twice(proxy_port=5557, compose_file=RDMA, with_docker=True) == [
        (5557, "proxy (PROXY_PORT=5557)", "the load test's workers (always 5557)")
    ]


def test_a_port_in_use_names_its_program() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        taken = listener.getsockname()[1]
        ports = to_be_used(StackSettings(proxy_port=taken), with_docker=False)

    used = {port.number: port.used_by for port in ports}
    assert f"(pid {os.getpid()})" in str(used[taken])


def test_control_channels_are_among_the_ports() -> None:
    ports = to_be_used(StackSettings(control_port=30000), with_docker=False)

    assert [port.number for port in ports if port.variable == "CONTROL_PORT"] == [30000, 30500]


def test_with_docker_only_published_ports_count() -> None:
    assert [port.number for port in to_be_used(StackSettings(), with_docker=True)] == [8000, 8089]


def test_replicas_may_count_beyond_the_last_port() -> None:
    ports = to_be_used(StackSettings(decode_port=65535, decode_replicas=2), with_docker=False)

    assert Port(65536, "decode-1", "DECODE_PORT", None, 65535, "DECODE_REPLICAS") in ports


def test_a_store_listens_on_four_ports() -> None:
    settings = StackSettings(stack_store=True, store_port=4000)
    found = {
        port.number: port.hosts for port in to_be_used(settings, with_docker=False) if port.variable == "STORE_PORT"
    }
    assert found == {4000: ("127.0.0.1",), 4001: ("127.0.0.1",), 4002: ("0.0.0.0",), 4003: ("0.0.0.0",)}
    for files in ("compose.yaml", "compose.yaml:compose.store.yaml", "compose.yaml:compose.rdma.yaml"):
        of_files = settings.model_copy(update={"compose_file": files})
        assert not [port for port in to_be_used(of_files, with_docker=True) if port.variable == "STORE_PORT"]


def test_two_masters_of_a_store_listen_on_two_ports_each() -> None:
    settings = StackSettings(stack_store=True, store_masters=2, store_port=4000)
    found = [port for port in to_be_used(settings, with_docker=False) if port.variable == "STORE_PORT"]
    assert sorted(port.number for port in found) == [*range(4000, 4006)]
    assert {(port.service, port.replicas) for port in found if port.number in (4001, 4005)} == {
        ("store-master-0", "STORE_MASTERS"),
        ("store-master-1", "STORE_MASTERS"),
    }


def test_what_observes_has_its_ports_on_loopback() -> None:
    settings = StackSettings(compose_file="compose.yaml:compose.observability.yaml", bind_address="0.0.0.0")
    observers = {
        with_docker: {
            port.number: (port.variable, port.hosts)
            for port in to_be_used(settings, with_docker=with_docker)
            if port.service in ("prometheus", "grafana")
        }
        for with_docker in (True, False)
    }
    prometheus = {9090: ("PROMETHEUS_PORT", ("127.0.0.1",))}
    assert observers == {True: prometheus | {3000: ("GRAFANA_PORT", ("127.0.0.1",))}, False: prometheus}
