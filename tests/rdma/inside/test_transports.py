"""The transport that was asked for carries the bytes, as the device's own counters say, and no other is taken."""

import os
import re

import pytest

from tests.rdma.inside import devices
from tests.rdma.inside.conftest import Start
from tests.rdma.inside.ranks import Rank
from tests.rdma.inside.transfers import BLOCKS, LAYER_BYTES, PAGE_BYTES, TRANSFER_BYTES, transfer


def counted(rank: Rank) -> dict[tuple[str, ...], float]:
    """What becomes `pd_kv_*`, by metric and labels."""
    return {tuple(labels): number for *labels, number in rank.ask("stats")["counted"]}


def test_rdma_moves_every_byte_over_the_device(start: Start) -> None:
    producer, consumer = start(), start()
    assert producer.address["segments"].keys() == consumer.address["segments"].keys() == {"rdma"}
    producer.ask("fill", 7)
    sent, received = devices.counter("rxe0", "sent_pkts"), devices.counter("rxe0", "rcvd_pkts")
    assert transfer(producer, consumer, "t") == ["t"]
    sent, received = devices.counter("rxe0", "sent_pkts") - sent, devices.counter("rxe0", "rcvd_pkts") - received
    print(f"{TRANSFER_BYTES} bytes: {sent} packets sent, {received} received, of at most {devices.MTU} bytes")
    assert TRANSFER_BYTES // devices.MTU <= sent < 1.5 * TRANSFER_BYTES / devices.MTU
    assert received >= TRANSFER_BYTES // devices.MTU
    assert consumer.ask("arrived") == {"t": {"bytes": TRANSFER_BYTES, "transport": "rdma"}}
    assert consumer.ask("invalid_blocks") == []
    for start_of_layer in (0, LAYER_BYTES):
        end = start_of_layer + len(BLOCKS) * PAGE_BYTES
        assert consumer.ask("sha256", start_of_layer, end) == producer.ask("sha256", start_of_layer, end)
        assert consumer.ask("byte", end) == 0, "the next block is untouched"
    assert counted(producer)["sent_bytes", "rdma"] == TRANSFER_BYTES
    assert counted(consumer)["received_bytes", "rdma"] == TRANSFER_BYTES


def test_tcp_stays_tcp_although_there_is_a_device(start: Start) -> None:
    producer, consumer = start(transport="tcp"), start(transport="tcp")
    sent = devices.counter("rxe0", "sent_pkts")
    assert transfer(producer, consumer, "t") == ["t"]
    assert consumer.ask("arrived") == {"t": {"bytes": TRANSFER_BYTES, "transport": "tcp"}}
    assert devices.counter("rxe0", "sent_pkts") == sent


def test_auto_takes_rdma_where_both_have_it_and_tcp_where_one_has_not(start: Start) -> None:
    producer, with_rdma, without = start(transport="auto"), start(transport="auto"), start(transport="tcp")
    assert producer.address["segments"].keys() == {"rdma", "tcp"}
    assert "left out: MOONCAKE_PROTOCOL='nvlink_intra': expected the CUDA builds" in producer.log.read_text()
    sent = devices.counter("rxe0", "sent_pkts")
    transfer(producer, without, "tcp")
    assert without.ask("arrived") == {"tcp": {"bytes": TRANSFER_BYTES, "transport": "tcp"}}
    assert devices.counter("rxe0", "sent_pkts") == sent
    for again in ("rdma before", "rdma"):
        transfer(producer, with_rdma, again)
        assert with_rdma.ask("arrived") == {again: {"bytes": TRANSFER_BYTES, "transport": "rdma"}}
    said = [line for line in producer.log.read_text().splitlines() if "KV cache for " in line]
    assert [line.partition(" goes over ")[2] for line in said] == [
        "tcp, the best in common: rdma, tcp here, tcp on the same host",
        "rdma, the best in common: rdma, tcp here, rdma, tcp on the same host",
    ], "once for each peer"
    assert devices.counter("rxe0", "sent_pkts") >= sent + TRANSFER_BYTES // devices.MTU


def test_rdma_and_tcp_alone_do_not_meet(start: Start) -> None:
    producer, consumer = start(), start(transport="tcp")
    consumer.ask("load", "t", producer.address, BLOCKS)
    assert consumer.ask("finished", 60) == ["t"]
    assert consumer.ask("invalid_blocks") == BLOCKS
    assert "no common transport: rdma here, tcp on the same host" in consumer.log.read_text()


def test_without_a_device_rdma_is_refused_and_auto_takes_tcp(start: Start) -> None:
    devices.remove("rxe0")
    try:
        refused, auto = start(), start(transport="auto")
        line = "MOONCAKE_PROTOCOL='rdma': expected an RDMA device in /sys/class/infiniband, found none"
        assert refused.refusal == line
        assert auto.address["segments"].keys() == {"tcp"}
        assert f"left out: {line}" in auto.log.read_text()
    finally:
        devices.add("rxe0", "eth0")


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"device": "rxe0,mlx5_0"}, "MOONCAKE_DEVICE_NAME='rxe0,mlx5_0': expected some of rxe0, found no mlx5_0"),
        ({"MC_GID_INDEX": 7}, "MC_GID_INDEX='7': expected one of 0, 1, which rxe0 has"),
    ],
)
def test_a_device_or_gid_that_is_not_there(start: Start, settings: dict[str, str | int], line: str) -> None:
    assert start(**settings).refusal == line


def test_a_gid_that_leads_nowhere_ends_the_transfer_with_its_reason(start: Start) -> None:
    """0 is a link-local address of IPv6, which the guest has no route for; left alone Mooncake takes the IPv4 one."""
    producer, consumer = start(MC_GID_INDEX=0), start()
    assert transfer(producer, consumer, "t") == ["t"]
    assert consumer.ask("invalid_blocks") == BLOCKS
    assert re.search(r"write failed: writing .* over rdma: [1-9]\d* failed, 0 did not end", consumer.log.read_text())


def test_an_ordinary_user_needs_only_the_limit_of_locked_memory(start: Start, tmp_path: os.PathLike[str]) -> None:
    os.chmod(tmp_path, 0o777)
    ordinary = ("setpriv", "--reuid=10001", "--regid=10001", "--clear-groups", "--bounding-set=-all", "--inh-caps=-all")
    low = start(prefix=(*ordinary, "prlimit", "--memlock=1048576"))
    assert low.refusal.startswith("Mooncake did not register 8388608 bytes of KV cache for rdma: code ")
    assert low.refusal.endswith("; this process may lock 1048576 bytes of memory: raise `ulimit -l` (memlock)")
    producer, consumer = start(prefix=ordinary), start(prefix=ordinary)
    assert transfer(producer, consumer, "t") == ["t"]
    assert consumer.ask("arrived") == {"t": {"bytes": TRANSFER_BYTES, "transport": "rdma"}}
