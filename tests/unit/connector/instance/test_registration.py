"""Registration against a real etcd: kept, lapsed, lost and made again."""

import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from connector.instance.registration import Registration, forget_old_segments
from stack import etcd
from stack.instances.record import Engine, Instance
from tests.cuttable_link import CuttableLink
from tests.etcd_process import EtcdProcess
from tests.unit.connector.fakes import until
from tests.unit.proxy.scripted import instance

RECORD = instance("prefill", "p0")
LONG_S = 3600
MEMORY = {"addr": 4096, "length": 10}


def segment(protocol: str, *buffers: dict[str, int]) -> str:
    """As Mooncake describes one."""
    return json.dumps({"protocol": protocol, "buffers": buffers})


@pytest.fixture
def register(etcd_server: EtcdProcess) -> Iterator[Callable[..., Registration]]:
    made: list[Registration] = []

    def make(ttl: int = LONG_S, endpoint: str = etcd_server.endpoint) -> Registration:
        made.append(Registration(endpoint, RECORD, ttl))
        return made[-1]

    yield make
    for registration in made:
        registration._client.close()


Register = Callable[..., Registration]


def record(server: EtcdProcess) -> Instance | None:
    with etcd.connect(server.endpoint) as client:
        value, _ = client.get(RECORD.key)
    return None if value is None else Instance.model_validate_json(value)


def test_it_is_there_from_the_first_keep_on_until_it_leaves(etcd_server: EtcdProcess, register: Register) -> None:
    registration = register()
    assert record(etcd_server) is None
    registration.keep()
    registration.keep()
    assert record(etcd_server) == RECORD
    registration.leave()
    assert record(etcd_server) is None


def test_it_disappears_when_nobody_keeps_it(etcd_server: EtcdProcess, register: Register) -> None:
    register(ttl=1).keep()
    assert record(etcd_server) == RECORD
    until(lambda: record(etcd_server) is None)


def test_a_lease_that_ended_is_replaced(
    etcd_server: EtcdProcess, register: Register, caplog: pytest.LogCaptureFixture
) -> None:
    registration = register(ttl=1)
    registration.keep()
    until(lambda: record(etcd_server) is None)
    registration.keep()
    assert record(etcd_server) == RECORD
    assert "etcd no longer knows our lease" in caplog.text


def test_a_record_is_written_again_when_it_says_something_new(etcd_server: EtcdProcess, register: Register) -> None:
    """Under the lease that it has."""
    registration = register()
    registration.keep()
    told = {"served_models": ("a", "b"), "max_model_len": 7}
    with etcd.connect(etcd_server.endpoint) as client:
        _, first = client.get(RECORD.key)
        for _ in range(2):
            assert not registration.serves({"served_models": RECORD.served_models})
            registration.keep()
        assert registration.serves(told)
        assert not registration.serves(told)
        registration.keep()
        registration.keep()
        assert record(etcd_server) == RECORD.model_copy(update=told)
        _, second = client.get(RECORD.key)
        assert (second.version, second.lease_id) == (2, first.lease_id)
    registration.leave()
    assert record(etcd_server) is None


def test_news_during_an_outage_are_written_after_it(etcd_server: EtcdProcess, register: Register) -> None:
    registration = register()
    registration.keep()
    etcd_server.stop()
    assert registration.serves({"served_models": ("a",)})
    registration.keep()
    etcd_server.start()

    def is_written() -> bool:
        registration.keep()
        found = record(etcd_server)
        return found is not None and found.served_models == ("a",)

    until(is_written)


def test_it_lapses_and_comes_back(etcd_server: EtcdProcess, register: Register) -> None:
    registration = register()
    registration.lapse()  # never registered: nothing to do
    registration.keep()
    registration.lapse()
    assert record(etcd_server) is None
    registration.keep()
    assert record(etcd_server) == RECORD


def test_the_segments_of_all_its_engines_are_its_own(etcd_server: EtcdProcess) -> None:
    """Of rank 1 and 10, whose names begin alike, those that it has; and of earlier processes all."""
    engines = (Engine(rank=1, pin=0), Engine(rank=2, pin=1))
    record = RECORD.model_copy(update={"engines": engines})
    with etcd.connect(etcd_server.endpoint) as client:
        for engine, transport in (("p0_dp1", "tcp"), ("p0_dp2", "rdma"), ("p0_dp10", "nvlink_intra")):
            client.put(f"mooncake/ram/{engine}-0", segment(transport, MEMORY))
        registration = Registration(etcd_server.endpoint, record, LONG_S)
        registration.keep()
        registration._client.close()
        value, _ = client.get(record.key)
        assert Instance.model_validate_json(value).transports == ("rdma", "tcp")
        client.put("mooncake/ram/prefill-h-8100-0a_dp3-0", segment("tcp", MEMORY))
        forget_old_segments(etcd_server.endpoint, "prefill-h-8100")
        assert list(client.get_prefix("mooncake/ram/prefill-")) == []


def test_an_etcd_that_lost_its_data_gets_the_record_again(
    etcd_server: EtcdProcess, register: Register, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    registration = register()
    registration.keep()
    etcd_server.stop()
    for _ in range(3):
        registration.keep()
    assert caplog.text.count("does not answer") == 1
    etcd_server.wipe()
    etcd_server.start()

    def is_back() -> bool:
        registration.keep()
        return "answers again" in caplog.text

    until(is_back)
    assert record(etcd_server) == RECORD


def test_an_etcd_that_lost_its_data_gets_mooncakes_segments_again(etcd_server: EtcdProcess, register: Register) -> None:
    """Mooncake itself writes them only when an engine opens. One may have been closed and another opened meanwhile."""
    closed, mine, another = "mooncake/ram/p0-0-tcp-0", "mooncake/ram/p0-0-tcp-1", "mooncake/ram/p01-0-tcp-0"
    newer = "mooncake/rpc_meta/p0-0-tcp-1"
    with etcd.connect(etcd_server.endpoint) as client:
        for key in (closed, another):
            client.put(key, segment("tcp", MEMORY))
        registration = register()
        registration.keep()
        client.delete(closed)
        client.put(mine, segment("tcp", MEMORY))
        client.put(newer, "older")
        registration.keep()
    etcd_server.stop()
    etcd_server.wipe()
    etcd_server.start()
    with etcd.connect(etcd_server.endpoint) as client:
        client.put(newer, "newer")

    def is_back() -> bool:
        registration.keep()
        return record(etcd_server) is not None

    until(is_back)
    with etcd.connect(etcd_server.endpoint) as client:
        found = {item.key.decode(): value.decode() for value, item in client.get_prefix("mooncake/")}
    assert found == {mine: segment("tcp", MEMORY), newer: "newer"}


def test_the_record_names_the_transports_that_mooncake_uses(
    etcd_server: EtcdProcess, register: Register, caplog: pytest.LogCaptureFixture
) -> None:
    """Those of its own ranks, best first; a segment without memory is of an engine that refused it."""
    caplog.set_level(logging.INFO)
    with etcd.connect(etcd_server.endpoint) as client:
        for rank in (0, 1):
            client.put(f"mooncake/ram/p0-{rank}-tcp", segment("tcp", MEMORY))
            client.put(f"mooncake/ram/p0-{rank}-rdma", segment("rdma", MEMORY))
        client.put("mooncake/ram/p0-0-nvlink_intra", segment("nvlink_intra"))
        client.put("mooncake/ram/p01-0-nvlink_intra", segment("nvlink_intra", MEMORY))
    register().keep()
    assert record(etcd_server) == RECORD.model_copy(update={"transports": ("rdma", "tcp")})
    assert caplog.text.count("KV cache over rdma, tcp") == 1


def test_a_new_client_does_not_inherit_another_ones_wait(etcd_server: EtcdProcess, register: Register) -> None:
    """Without an option of their own, gRPC's channels to one address share a lost connection's back-off."""
    registration = register()
    etcd_server.stop()
    registration.keep()
    etcd_server.start()
    assert record(etcd_server) is None


def test_a_connection_that_is_dead_at_the_other_end_is_given_up(etcd_server: EtcdProcess, register: Register) -> None:
    """As when etcd's host is replaced: nothing tells so, and TCP would wait for minutes."""
    with CuttableLink(etcd_server.endpoint) as link:
        registration = register(ttl=1, endpoint=link.endpoint)
        registration.keep()
        link.cut()
        link.replace()
        until(lambda: record(etcd_server) is None)
        registration.keep()
        assert record(etcd_server) is None
        registration.keep()
        assert record(etcd_server) == RECORD


def test_without_etcd_it_can_lapse_and_leave(
    etcd_server: EtcdProcess, register: Register, caplog: pytest.LogCaptureFixture
) -> None:
    registration = register()
    registration.keep()
    etcd_server.stop()
    registration.leave()
    assert "could not leave etcd" in caplog.text


def test_only_this_instances_old_segments_are_forgotten(etcd_server: EtcdProcess) -> None:
    mine = ["mooncake/ram/prefill-h-8100-ab12-0", "mooncake/rpc_meta/prefill-h-8100-ab12-0"]
    others = ["mooncake/ram/prefill-h-81001-cd34-0", "mooncake/ram/decode-h-8200-ef56-0", RECORD.key]
    with etcd.connect(etcd_server.endpoint) as client:
        for key in mine + others:
            client.put(key, "x")
        forget_old_segments(etcd_server.endpoint, "prefill-h-8100")
        assert sorted(metadata.key.decode() for _, metadata in client.get_all()) == sorted(others)


def test_an_absent_etcd_is_no_reason_not_to_start(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    forget_old_segments(EtcdProcess(tmp_path).endpoint, "prefill-h-8100")
    assert "could not clean up" in caplog.text
