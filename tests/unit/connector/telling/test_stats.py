import threading
from typing import Any

import msgspec

from connector.control.messages import Done
from connector.telling.stats import TransferStats

SHARE = Done(
    transfer_id="t",
    rank=0,
    bytes=800,
    early_bytes=600,
    pieces=3,
    seconds=2.0,
    exposed_seconds=0.125,
    transport="tcp",
)


def taken_of(stats: TransferStats) -> dict[str, Any]:
    taken = stats.take()
    assert taken is not None
    return taken


def test_nothing_to_take() -> None:
    assert TransferStats().take() is None


def test_writes_and_registrations_add_up_until_they_are_taken() -> None:
    stats = TransferStats()
    stats.wrote("tcp", 100, 2, 0.5)
    stats.wrote("tcp", 50, 1, 0.25)
    stats.wrote("rdma", 7, 1, 0.125)
    stats.registered()
    stats.registered()
    stats.registered("wrong layout: the consumer's is a, ours b")
    assert stats.take() == {
        "counted": [
            ["sent_bytes", "tcp", 150],
            ["sent_pieces", "tcp", 3],
            ["write_seconds", "tcp", 0.75],
            ["sent_bytes", "rdma", 7],
            ["sent_pieces", "rdma", 1],
            ["write_seconds", "rdma", 0.125],
            ["registrations", "accepted", 2],
            ["registrations", "wrong layout", 1],
        ],
        "observed": [],
        "gauges": [],
    }
    assert stats.take() is None


def test_a_delivered_share_is_observed() -> None:
    stats = TransferStats()
    stats.delivered(SHARE)
    taken = taken_of(stats)
    assert taken["counted"] == [["delivered_shares", "tcp", 1], ["early_bytes", "tcp", 600]]
    assert taken["observed"] == [
        ["transfer_seconds", "tcp", 2.0],
        ["exposed_seconds", "tcp", 0.125],
        ["early_ratio", "tcp", 0.75],
        ["transfer_bytes_per_second", "tcp", 400.0],
    ]


def test_a_share_faster_than_the_clock_has_no_bandwidth() -> None:
    stats = TransferStats()
    stats.delivered(msgspec.structs.replace(SHARE, seconds=0.0))
    assert "transfer_bytes_per_second" not in {row[0] for row in taken_of(stats)["observed"]}


def test_a_share_without_a_head_is_none() -> None:
    stats = TransferStats()
    stats.delivered(msgspec.structs.replace(SHARE, bytes=0, early_bytes=0))
    assert stats.take() is None


def test_the_tokens_of_a_transfer_count_once_over_its_shares() -> None:
    stats = TransferStats()
    stats.received(SHARE, 32)
    stats.received(SHARE, 0)
    assert taken_of(stats)["counted"] == [
        ["received_shares", "tcp", 2],
        ["received_bytes", "tcp", 1600],
        ["received_tokens", "tcp", 32],
    ]


def test_failures_count_by_kind_and_transport() -> None:
    stats = TransferStats()
    stats.failed("write failed: one", "tcp")
    stats.failed("write failed: another", "tcp")
    stats.failed("cancelled")
    assert taken_of(stats)["counted"] == [
        ["failed_shares", "write failed", "tcp", 2],
        ["failed_shares", "cancelled", "", 1],
    ]


def test_a_gauge_has_its_last_value() -> None:
    stats = TransferStats()
    stats.blocks_held(3, 1000.5)
    stats.free_blocks(60)
    stats.blocks_held(0, 0.0)
    assert taken_of(stats)["gauges"] == [
        ["blocks_held", 0],
        ["oldest_hold_timestamp_seconds", 0.0],
        ["free_blocks", 60],
    ]


def test_what_was_taken_does_not_change_any_more() -> None:
    stats = TransferStats()
    stats.delivered(SHARE)
    stats.failed("cancelled: x")
    taken = taken_of(stats)
    known = msgspec.json.encode(taken)
    stats.delivered(SHARE)
    stats.failed("cancelled: x")
    assert msgspec.json.encode(taken) == known


def test_it_is_the_same_on_the_other_end_of_a_socket() -> None:
    stats = TransferStats()
    stats.delivered(SHARE)
    stats.failed("cancelled")
    stats.free_blocks(60)
    taken = taken_of(stats)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(taken)) == taken


def test_no_count_is_lost_between_threads() -> None:
    stats, total = TransferStats(), 0

    def write() -> None:
        for _ in range(500):
            stats.wrote("tcp", 1, 1, 0.0)

    def sent_bytes() -> int:
        rows = (stats.take() or {"counted": []})["counted"]
        return sum(number for name, _, number in rows if name == "sent_bytes")

    writers = [threading.Thread(target=write) for _ in range(4)]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        total += sent_bytes()
    assert total + sent_bytes() == 2000
