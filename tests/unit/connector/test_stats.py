import threading

from connector.stats import TransferStats


def test_nothing_to_take() -> None:
    assert TransferStats().take() is None


def test_counts_add_up_until_they_are_taken() -> None:
    stats = TransferStats()
    stats.wrote(100, 2, 0.5)
    stats.wrote(50, 1, 0.25)
    stats.delivered(0.125, 40)
    stats.received(64, 32)
    stats.failed("write failed: one")
    stats.failed("write failed: another")
    stats.failed("cancelled")
    assert stats.take() == {
        "counts": {
            "sent_bytes": 150,
            "sent_pieces": 3,
            "write_seconds": 0.75,
            "delivered_transfers": 1,
            "early_bytes": 40,
            "received_bytes": 64,
            "received_tokens": 32,
            "received_transfers": 1,
        },
        "failures": {"write failed": 2, "cancelled": 1},
        "exposed": [0.125],
    }
    assert stats.take() is None


def test_what_was_taken_does_not_change_any_more() -> None:
    stats = TransferStats()
    stats.failed("cancelled: x")
    taken = stats.take()
    stats.failed("cancelled: x")
    assert taken is not None
    assert taken["failures"] == {"cancelled": 1}


def test_no_count_is_lost_between_threads() -> None:
    stats, total = TransferStats(), 0

    def write() -> None:
        for _ in range(500):
            stats.wrote(1, 1, 0.0)

    writers = [threading.Thread(target=write) for _ in range(4)]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        total += int((stats.take() or {"counts": {}})["counts"].get("sent_bytes", 0))
    total += int((stats.take() or {"counts": {}})["counts"].get("sent_bytes", 0))
    assert total == 2000
