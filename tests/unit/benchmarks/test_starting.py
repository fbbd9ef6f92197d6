"""What a run needs before its first server: etcd, a model's folder, two namespaces, the servers' own answers."""

import asyncio
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from itertools import islice, pairwise
from pathlib import Path

import pytest

from benchmarks import etcd_server
from benchmarks.connector.topology import namespaces, routes
from benchmarks.connector.topology.routes import Contender, OurPair, Single, UpstreamPair, Way
from benchmarks.deadline import Deadline
from benchmarks.errors import CannotStart, OutOfTime
from benchmarks.ports import STEP, free_ports
from benchmarks.processes import Processes
from stack import etcd
from stack.instances.record import Engine, Instance
from tests.etcd_process import EtcdProcess


class Healthy(BaseHTTPRequestHandler):
    """A server that is healthy and knows two engines, as upstream's bootstrap server does."""

    def do_GET(self) -> None:
        body = json.dumps(
            {str(rank): {"engine_id": f"engine-{7 + rank}", "worker_addr": {}} for rank in (0, 1)}
        ).encode()
        self.send_response(200)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def healthy() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), Healthy) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def record(role: str, url: str) -> Instance:
    return Instance(
        role=role,  # type: ignore[arg-type]
        instance_id=f"{role}-1",
        url=url,
        served_models=("benchmark",),
        model="m",
        max_model_len=1,
        block_size=32,
        dtype="float32",
        tensor_parallel_size=1,
        fingerprint="f",
        kv_transfer={"engine_id": f"{role}-1"},
        vllm_version="0",
        connector_version="0",
        started_at=0.0,
    )


@pytest.mark.timeout(60)
def test_our_pair_is_ready_when_both_instances_are_registered(etcd_server: EtcdProcess) -> None:
    pair = OurPair("ours", [], "http://127.0.0.1:1", "http://127.0.0.1:2", etcd_server.endpoint)
    client = etcd.connect(etcd_server.endpoint)
    for role, url in (("prefill", pair.prefill_url), ("decode", "http://127.0.0.1:99")):
        instance = record(role, url)
        client.put(instance.key, instance.model_dump_json())
    assert pair.route() is None
    instance = record("decode", pair.decode_url)
    client.put(instance.key, instance.model_dump_json())
    client.close()
    route = pair.route()
    assert route is not None
    assert route.ways == [Way(consumer_params={"producer": {"engine_id": "prefill-1"}})]
    etcd_server.stop()
    assert pair.route() is None


@pytest.mark.timeout(60)
def test_upstreams_pair_is_ready_when_its_producer_has_registered(healthy: str) -> None:
    gone = "http://127.0.0.1:1"
    assert UpstreamPair("upstream", [], healthy, gone, healthy).route() is None
    assert UpstreamPair("upstream", [], healthy, healthy, gone).route() is None
    route = UpstreamPair("upstream", [], healthy, healthy, healthy).route()
    assert route is not None
    [way] = route.ways
    assert (way.producer_pin, way.consumer_pin) == (None, None)
    assert way.consumer_params["remote_engine_id"] == "engine-7"
    assert way.consumer_params["remote_bootstrap_addr"] == healthy


@pytest.mark.timeout(60)
def test_every_engine_of_a_producer_meets_every_one_of_a_consumer(etcd_server: EtcdProcess, healthy: str) -> None:
    pair = OurPair("ours", [], "http://127.0.0.1:1", "http://127.0.0.1:2", etcd_server.endpoint)
    client = etcd.connect(etcd_server.endpoint)
    for role, url in (("prefill", pair.prefill_url), ("decode", pair.decode_url)):
        engines = tuple(Engine(rank=rank, pin=rank, kv_transfer={"port": rank}) for rank in (0, 1))
        instance = record(role, url).model_copy(update={"engines": engines})
        client.put(instance.key, instance.model_dump_json())
    client.close()
    theirs = UpstreamPair("upstream", [], healthy, healthy, healthy, engines=2)
    for route, told in ((pair.route(), "producer"), (theirs.route(), "remote_engine_id")):
        assert route is not None
        ways = [(way.producer_pin, way.consumer_pin) for way in route.ways]
        assert ways == [(0, 0), (1, 1), (0, 1), (1, 0)]
        ports = {way.producer_pin: str(way.consumer_params[told]) for way in route.ways}
        assert len(set(ports.values())) == 2, "each producer is told as itself"
    alone = Single([], healthy, engines=2).route()
    assert alone is not None
    assert [(way.producer_pin, way.consumer_pin) for way in alone.ways] == [(None, 0), (None, 1)]


@pytest.mark.timeout(60)
def test_routes_come_in_the_order_of_the_contenders(healthy: str, tmp_path: Path) -> None:
    contenders: list[Contender] = [UpstreamPair("upstream", [], healthy, healthy, healthy), Single([], healthy)]
    with Processes(tmp_path) as processes:
        started = routes.start(contenders, processes, Deadline(30))
    assert [route.name for route in started] == ["upstream", "single"]


@pytest.mark.timeout(60)
def test_waiting_for_servers_ends_with_the_time_limit(tmp_path: Path) -> None:
    with Processes(tmp_path) as processes, pytest.raises(OutOfTime):
        routes.start([Single([], "http://127.0.0.1:1")], processes, Deadline(0.01))


@pytest.mark.timeout(60)
def test_etcd_answers_when_it_has_started_and_is_gone_afterwards(tmp_path: Path) -> None:
    with Processes(tmp_path) as processes:
        ports = free_ports()
        binary = etcd_server.find("")
        endpoint = etcd_server.start(binary, tmp_path / "etcd", "127.0.0.1", ports, processes, Deadline(30))
        client = etcd.connect(endpoint)
        client.put("/a", "b")
        assert client.get("/a")[0] == b"b"
        client.close()
    with pytest.raises(ConnectionRefusedError):
        asyncio.run(asyncio.open_connection(*endpoint.split(":")))


def test_an_etcd_that_is_not_there_is_named() -> None:
    with pytest.raises(CannotStart, match="--etcd='/nowhere/etcd': expected an etcd binary"):
        etcd_server.find("/nowhere/etcd")


def test_ports_leave_room_for_ranks() -> None:
    ports = list(islice(free_ports(), 5))
    assert all(later - earlier >= STEP for earlier, later in pairwise(ports))


@pytest.mark.timeout(60)
def test_a_link_needs_root() -> None:
    """In a process of its own, because a namespace is for the rest of a process's life."""
    program = """
import os
from benchmarks.connector.topology.namespaces import CannotStart, shaped_link
if os.getuid() == 0:
    os.setuid(65534)
try:
    shaped_link("400mbit")
except CannotStart as error:
    print(error)
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout == (f"link: cannot make a network namespace ({os.strerror(1)}): run it as root\n"), (
        result.stderr
    )


def test_a_link_names_the_program_it_misses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(namespaces, "_enter_new_namespace", lambda: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(CannotStart, match="program ip is missing; package iproute2"):
        namespaces.shaped_link("400mbit")
