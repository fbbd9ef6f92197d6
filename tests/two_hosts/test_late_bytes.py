"""What a cut wire holds back comes when it is mended: long after Mooncake has given the write up, into whatever the
consumer's memory holds by then. Unless the consumer has taken that memory back."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.etcd_process import EtcdProcess
from tests.mooncake_ranks import LIMIT_S, MEMORY_BYTES, Rank, sha256_of_filled
from tests.real_stack import wait_until
from tests.two_hosts.hosts import Host, two_hosts

PRODUCER, CONSUMER = "192.168.0.137", "192.168.0.139"
RATE = "200mbit"
EVERYTHING = [(0, 0, MEMORY_BYTES)]
AFTERWARDS = [(0, 0, 1 << 20)]


@pytest.fixture
def hosts() -> Iterator[tuple[Host, Host]]:
    with two_hosts(PRODUCER, CONSUMER, RATE) as both:
        yield both


@pytest.fixture
def ranks(hosts: tuple[Host, Host], tmp_path: Path) -> Iterator[tuple[Rank, Rank]]:
    here, there = hosts
    etcd = there.call(EtcdProcess, tmp_path, CONSUMER).result()
    there.call(etcd.start).result()
    started = []
    try:
        for name, host in (("producer", here), ("consumer", there)):
            log = tmp_path / f"{name}.log"
            started.append(Rank(name, etcd.endpoint, "tcp", log, host.address, host.enter))
        yield started[0], started[1]
    finally:
        for rank in started:
            rank.end()
        etcd.stop()


@pytest.mark.parametrize("revoked", [False, True], ids=["still its own", "taken back"])
def test_late_bytes_reach_no_memory_that_was_taken_back(
    hosts: tuple[Host, Host], ranks: tuple[Rank, Rank], revoked: bool
) -> None:
    here, _ = hosts
    producer, consumer = ranks
    producer.ask(fill=7)
    empty = sha256_of_filled([], 0)
    producer.tell(write=consumer.address, pieces=EVERYTHING)
    while consumer.ask(sha256=None) == empty:
        pass
    here.cut()
    error = producer.answer()
    assert error is not None
    assert here.unsent_bytes() > 0
    if revoked:
        consumer.address = consumer.ask(revoke=None)
    consumer.ask(fill=0)
    here.mend()
    wait_until(lambda: here.unsent_bytes() == 0, LIMIT_S, "all that was held back is delivered or refused")
    if revoked:
        assert consumer.ask(sha256=None) == empty
        assert producer.write(consumer, AFTERWARDS) is None
        assert consumer.ask(sha256=None) == sha256_of_filled(AFTERWARDS, 7)
    else:
        assert consumer.ask(sha256=None) != empty, "else this proves nothing"
