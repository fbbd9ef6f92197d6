"""Mooncake's real engine over TCP between processes, as the connector drives it."""

import random
import re
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.etcd_process import EtcdProcess
from tests.mooncake_ranks import LIMIT_S, MEMORY_BYTES, Rank, sha256_of_filled


@pytest.fixture(scope="module")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdProcess]:
    server = EtcdProcess(tmp_path_factory.mktemp("etcd"))
    server.start()
    yield server
    server.stop()


Start = Callable[..., Rank]


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "ranks.log"


@pytest.fixture
def start(etcd: EtcdProcess, log: Path, request: pytest.FixtureRequest) -> Iterator[Start]:
    started: list[Rank] = []

    def make(transport: str = "auto", host: str = "127.0.0.1", etcd_endpoint: str = etcd.endpoint) -> Rank:
        name = f"{request.node.name}-{len(started)}"
        started.append(Rank(name, etcd_endpoint, transport, log, host))
        return started[-1]

    yield make
    for rank in started:
        rank.end()


def many_pieces() -> list[tuple[int, int, int]]:
    order = list(range(10_000))
    random.Random(0).shuffle(order)
    return [(16 + 3000 * here, 3000 * there, 1 + here % 2999) for here, there in enumerate(order)]


@pytest.mark.parametrize("pieces", [[(0, 0, MEMORY_BYTES)], [(5, 9, (3 << 20) + 1)], many_pieces()])
def test_bytes_arrive_where_they_belong_and_nowhere_else(start: Start, pieces: list[tuple[int, int, int]]) -> None:
    """One piece of all, one that is longer than what is posted at once, and 10,000 small ones in any order."""
    producer, consumer = start(), start()
    assert producer.address["segments"].keys() == {"tcp"}
    producer.ask(fill=7)
    assert producer.write(consumer, pieces) is None
    assert consumer.ask(sha256=None) == sha256_of_filled(pieces, 7)


def test_bytes_arrive_over_ipv6_with_an_etcd_of_ipv6(start: Start, tmp_path: Path) -> None:
    server = EtcdProcess(tmp_path, "::1")
    server.start()
    try:
        producer, consumer = (start(host="::1", etcd_endpoint=server.endpoint) for _ in range(2))
        producer.ask(fill=7)
        everything = [(0, 0, MEMORY_BYTES)]
        assert producer.write(consumer, everything) is None
        assert consumer.ask(sha256=None) == sha256_of_filled(everything, 7)
    finally:
        server.stop()


def test_a_write_outside_of_the_peers_memory_harms_no_other(start: Start) -> None:
    producer, consumer = start(), start()
    producer.ask(fill=1)
    inside, outside = [(0, 0, 4096)], [(0, 0, 4096), (0, MEMORY_BYTES - 8, 4096)]
    error = producer.write(consumer, outside)
    segment = consumer.address["segments"]["tcp"]
    assert error == f"writing 8192 bytes in 2 pieces to {segment} over tcp: 1 failed, 0 did not end, 0 not posted"
    assert producer.write(consumer, inside) is None
    assert consumer.ask(sha256=None) == sha256_of_filled(inside, 1)


def test_a_killed_peer_ends_the_write_and_the_next_ones_and_harms_no_other(start: Start) -> None:
    producer, consumer, other = start(), start(), start()
    producer.ask(fill=1)
    everything = [(0, 0, MEMORY_BYTES)]
    assert producer.write(consumer, everything) is None
    consumer.end()
    for _ in range(2):
        error = producer.write(consumer, everything)
        assert error is not None
        assert re.search(r"over tcp: [1-9]\d* failed, 0 did not end, \d+ not posted$", error)
    assert producer.write(other, everything) is None
    assert other.ask(sha256=None) == sha256_of_filled(everything, 1)


def test_a_peer_that_hangs_ends_the_write_with_every_piece_accounted_for(start: Start) -> None:
    producer, consumer = start(), start()
    producer.ask(fill=1)
    everything = [(0, 0, MEMORY_BYTES)]
    assert producer.write(consumer, everything) is None
    consumer.process.send_signal(signal.SIGSTOP)
    error = producer.write(consumer, everything)
    assert error is not None
    assert re.search(r"over tcp: [1-9]\d* failed, 0 did not end, \d+ not posted$", error)
    consumer.process.send_signal(signal.SIGCONT)
    assert producer.write(consumer, everything) is None


@pytest.mark.parametrize("revoked", [False, True], ids=["still its own", "taken back"])
def test_what_a_stopped_producer_had_posted_reaches_no_memory_that_was_taken_back(start: Start, revoked: bool) -> None:
    """It lies in the kernel's buffers, which are delivered at once, and in Mooncake's queue, which goes on later."""
    producer, consumer = start(), start()
    producer.ask(fill=7)
    everything = [(0, 0, MEMORY_BYTES)]
    assert producer.write(consumer, everything) is None
    empty = sha256_of_filled([], 0)
    consumer.ask(fill=0)
    producer.tell(write=consumer.address, pieces=everything * 64)
    while consumer.ask(sha256=None) == empty:
        pass
    producer.process.send_signal(signal.SIGSTOP)
    if revoked:
        consumer.address = consumer.ask(revoke=None)
    consumer.ask(fill=0)
    producer.process.send_signal(signal.SIGCONT)
    error = producer.answer()
    if revoked:
        assert error is not None
        assert consumer.ask(sha256=None) == empty
        assert producer.write(consumer, everything) is None
    else:
        assert error is None
    assert consumer.ask(sha256=None) == sha256_of_filled(everything, 7)


def test_a_peer_that_nobody_knows(start: Start) -> None:
    producer, consumer = start(), start()
    consumer.address["segments"] = {"tcp": "nobody"}
    error = producer.write(consumer, [(0, 0, 8)])
    assert error == "writing 8 bytes in 1 pieces to nobody over tcp: 1 failed, 0 did not end, 0 not posted"


def test_a_transport_that_the_build_lacks_is_one_line(start: Start, log: Path) -> None:
    rank = start("nvlink_intra")
    assert rank.process.wait(LIMIT_S) == 1
    line = "MOONCAKE_PROTOCOL='nvlink_intra': expected the CUDA builds of vLLM and Mooncake, found those for CPUs"
    assert log.read_text().splitlines()[-1] == line
