"""What goes wrong over RDMA: every posted write is accounted for before its blocks are free; nothing waits for ever.

A one-sided write needs nobody at the other end: it succeeds into a stopped process, and into a killed one it may never
end, which soft-RoCE shows at its worst (hardware gives up after some retries).
"""

import hashlib
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.etcd_process import EtcdProcess
from tests.rdma.inside import devices
from tests.rdma.inside.conftest import Start
from tests.rdma.inside.ranks import Rank, until
from tests.rdma.inside.transfers import BLOCKS, ENDS_S, MEMORY_BYTES, TRANSFER_BYTES, transfer

SMALL = [(0, 0, 4096)]
EVERYTHING = [(0, 0, MEMORY_BYTES)]
ALL_ENDED = re.compile(r"over rdma: [1-9]\d* failed, 0 did not end, \d+ not posted$")


def until_registered(producer: Rank) -> None:
    """The producer has accepted a registration since it was last asked for its statistics."""
    until(lambda: ["registrations", "accepted", 1] in (producer.ask("stats") or {"counted": []})["counted"])


def device_is_quiet() -> bool:
    before = devices.counter("rxe0", "sent_pkts")
    time.sleep(1)
    return devices.counter("rxe0", "sent_pkts") == before


@pytest.fixture
def eth0() -> Iterator[str]:
    """Up again after the test. Mooncake leaves a device alone for 30 s after its port was down, but so does no new
    process."""
    yield "eth0"
    devices.link_up("eth0")


@pytest.fixture
def rxe1() -> Iterator[str]:
    """To be asked for before `start`: a device that is in use takes a minute to go."""
    devices.add_interface("dummy0", "10.0.3.15/24")
    devices.add("rxe1", "dummy0")
    yield "rxe1"
    devices.remove("rxe1")


def test_memory_that_is_not_registered_fails_alone(start: Start) -> None:
    producer, consumer = start(), start()
    producer.ask("fill", 1)
    unregistered, overrun = (MEMORY_BYTES, 0, 4096), (0, MEMORY_BYTES - 8, 4096)
    for bad in (unregistered, overrun):
        assert ALL_ENDED.search(producer.write(consumer, [bad]))
        assert ALL_ENDED.search(producer.write(consumer, [*SMALL, bad]))
        assert producer.write(consumer, SMALL) == ""
    assert consumer.ask("byte", 4095) == 1
    assert consumer.ask("byte", 4096) == 0


def test_a_killed_consumer_frees_the_producers_blocks_and_harms_no_other(start: Start) -> None:
    producer, consumer, other = start(), start(), start()
    assert transfer(producer, consumer, "before") == ["before"]
    producer.ask("stats")
    consumer.ask("load", "t", producer.address, BLOCKS)
    until_registered(producer)
    consumer.end()
    other.ask("load", "beside", producer.address, BLOCKS)
    producer.ask("prefill", "t", BLOCKS)
    producer.ask("prefill", "beside", BLOCKS)
    assert other.ask("finished", ENDS_S) == ["beside"]
    assert other.ask("invalid_blocks") == []
    freed: set[str] = set()
    while freed != {"t", "beside"}:
        freed.update(producer.ask("finished", ENDS_S))
    log = producer.log.read_text()
    assert log.count("attempt to write") <= 1, "no second attempt behind pieces without an end"
    assert "transfer t to " in log, "the end names transfer, peer and cause"


def test_into_a_stopped_consumer_the_write_succeeds_and_its_silence_is_told(start: Start) -> None:
    producer, consumer = start(), start()
    assert transfer(producer, consumer, "before") == ["before"]
    producer.ask("stats")
    consumer.ask("load", "t", producer.address, BLOCKS)
    until_registered(producer)
    consumer.process.send_signal(signal.SIGSTOP)
    producer.ask("prefill", "t", BLOCKS)
    assert producer.ask("finished", ENDS_S) == ["t"]
    assert producer.ask("stats")["counted"].count(["delivered_shares", "rdma", 1]) == 1
    control = consumer.address["control"]
    until(lambda: [control, False] in producer.ask("lost"))
    consumer.process.send_signal(signal.SIGCONT)
    assert consumer.ask("finished", ENDS_S) == ["t"]
    assert consumer.ask("arrived")["t"]["bytes"] == TRANSFER_BYTES


def test_a_stopped_producer_is_given_up_and_writes_nothing_when_it_comes_back(start: Start) -> None:
    producer, consumer = start(), start(timeout=3, write_timeout=5)
    producer.ask("fill", 7)
    consumer.ask("load", "t", producer.address, BLOCKS)
    until_registered(producer)
    producer.process.send_signal(signal.SIGSTOP)
    assert consumer.ask("finished", ENDS_S) == ["t"]
    assert consumer.ask("invalid_blocks") == BLOCKS
    producer.process.send_signal(signal.SIGCONT)
    producer.ask("prefill", "t", BLOCKS)
    assert producer.ask("finished", ENDS_S) == ["t"]
    assert consumer.ask("byte", 0) == 0, "these blocks hold something else by now"
    assert transfer(producer, consumer, "after") == ["after"]
    assert consumer.ask("arrived")["after"]["bytes"] == TRANSFER_BYTES


@pytest.mark.parametrize("revoked", [False, True], ids=["still its own", "taken back"])
def test_what_a_stopped_producer_had_posted_reaches_no_memory_that_was_taken_back(start: Start, revoked: bool) -> None:
    """Most of it lies in Mooncake's queue, which goes on when the process wakes."""
    producer, consumer = start(), start()
    producer.ask("fill", 7)
    assert producer.write(consumer, SMALL) == ""
    sent = devices.counter("rxe0", "sent_pkts")
    producer.tell("write", consumer.address, EVERYTHING * 16)
    until(lambda: devices.counter("rxe0", "sent_pkts") > sent + 100)
    producer.process.send_signal(signal.SIGSTOP)
    until(device_is_quiet)
    if revoked:
        consumer.address = consumer.ask("revoke")
    consumer.ask("fill", 0)
    producer.process.send_signal(signal.SIGCONT)
    error = producer.answer()
    if not revoked:
        assert error == ""
        assert consumer.ask("byte", MEMORY_BYTES - 1) == 7, "else this proves nothing"
        return
    assert error
    assert consumer.ask("sha256", 0, MEMORY_BYTES) == hashlib.sha256(bytes(MEMORY_BYTES)).hexdigest()
    assert transfer(producer, consumer, "after") == ["after"]
    assert consumer.ask("arrived")["after"]["bytes"] == TRANSFER_BYTES


def test_a_link_that_goes_down_and_comes_back(start: Start, eth0: str) -> None:
    producer, consumer = start(), start()
    assert producer.write(consumer, SMALL) == ""
    sent = devices.counter("rxe0", "sent_pkts")
    producer.tell("write", consumer.address, EVERYTHING * 16)
    until(lambda: devices.counter("rxe0", "sent_pkts") > sent + 100)
    devices.link_down(eth0)
    assert ALL_ENDED.search(producer.answer())
    assert transfer(producer, consumer, "down") == ["down"]
    assert consumer.ask("invalid_blocks") == BLOCKS
    devices.link_up(eth0)
    until(lambda: producer.write(consumer, SMALL) == "")
    assert transfer(producer, consumer, "up") == ["up"]
    assert consumer.ask("arrived")["up"] == {"bytes": TRANSFER_BYTES, "transport": "rdma"}


def test_two_devices_share_the_work_and_one_goes_on_alone(rxe1: str, start: Start) -> None:
    producer, consumer = start(device="rxe0,rxe1"), start(device="rxe0,rxe1")

    def packets_of_a_write() -> tuple[int, int]:
        before = [devices.counter(device, "sent_pkts") for device in ("rxe0", rxe1)]
        assert producer.write(consumer, EVERYTHING * 4) == ""
        first, second = (devices.counter(device, "sent_pkts") for device in ("rxe0", rxe1))
        return first - before[0], second - before[1]

    whole = 4 * MEMORY_BYTES // devices.MTU
    packets_of_a_write()  # some combinations of the two are tried and left meanwhile
    first, second = packets_of_a_write()
    print(f"both up: {first} packets over rxe0, {second} over rxe1")
    assert first + second >= whole
    assert min(first, second) > whole // 10
    devices.link_down("dummy0")
    until(lambda: packets_of_a_write()[1] == 0)
    first, second = packets_of_a_write()
    assert (first >= whole, second) == (True, 0)


@pytest.fixture
def own_etcd(tmp_path: Path) -> Iterator[EtcdProcess]:
    server = EtcdProcess(tmp_path / "own etcd")
    server.start()
    yield server
    server.stop()


def test_etcd_gone(own_etcd: EtcdProcess, start: Start) -> None:
    producer, consumer, unknown = (start(etcd=own_etcd.endpoint) for _ in range(3))
    assert producer.write(consumer, SMALL) == ""
    assert unknown.address
    own_etcd.stop()
    assert producer.write(consumer, SMALL) == "", "a peer that is known needs no etcd"
    assert ALL_ENDED.search(producer.write(unknown, SMALL))
    assert start(etcd=own_etcd.endpoint).refusal.startswith(f"etcd at {own_etcd.endpoint}, where Mooncake keeps its")
    own_etcd.start()
    until(lambda: producer.write(unknown, SMALL) == "")
