"""Measured times beside those that were sent."""

import pytest

from benchmarks.loadtest.comparison import compare
from benchmarks.loadtest.scripted_server import Script, Sent
from loadtest.figures.record import RequestRecord

MS = 1_000_000  # nanoseconds


def record(**values: object) -> RequestRecord:
    given = {
        "index": 0,
        "outcome": "completed",
        "scheduled": 1.0,
        "started": 1.003,
        "first_content": 1.105,
        "itl": (0.05, 0.07),
        "ended": 1.3,
        "request_id": "7",
    }
    return RequestRecord(**{**given, **values})  # type: ignore[arg-type]


# Received at 500 ms of the server's own clock; the second event was due at 650 and written 4 ms late.
SENT = Sent(7, 500 * MS, due=[600 * MS, 650 * MS, 720 * MS], written=[601 * MS, 654 * MS, 720 * MS])


def test_the_servers_own_lateness_is_no_error_of_the_client() -> None:
    found = compare([record(itl=(0.053, 0.066))], {"7": SENT})
    assert found.gaps == pytest.approx([0.0, 0.0])
    assert found.lateness == pytest.approx([0.001, 0.004, 0.0])
    assert found.worst_gap_of_stream == pytest.approx([0.0])


def test_a_gap_that_was_not_so_is_an_error() -> None:
    found = compare([record()], {"7": SENT})
    assert found.gaps == pytest.approx([-0.003, 0.004])
    assert found.worst_gap_of_stream == pytest.approx([0.004])
    assert found.tpot == pytest.approx([0.0005])


def test_ttft_counts_from_the_actual_start_and_a_late_start_by_itself() -> None:
    found = compare([record()], {"7": SENT})
    assert found.ttft == pytest.approx([0.001])
    assert found.start_delay == pytest.approx([0.003])


@pytest.mark.parametrize(
    "wrong", [{"itl": (0.05,)}, {"request_id": "8"}, {"request_id": None}, {"first_content": None}]
)
def test_a_stream_that_is_not_the_one_that_was_sent_is_counted_and_not_compared(wrong: dict[str, object]) -> None:
    found = compare([record(**wrong), record()], {"7": SENT})
    assert found.unmatched == 1
    assert len(found.ttft) == 1


def test_spreads_are_of_sizes_and_of_nothing_there_is_none() -> None:
    row = compare([record(itl=(0.053, 0.067)), record(itl=(0.043, 0.066))], {"7": SENT}).row()
    assert row["streams"] == 2
    assert row["gaps"] == 4
    assert row["gap_error_s"]["max"] == pytest.approx(0.01)
    assert row["gap_error_s"]["p50"] == pytest.approx(0.0005)
    assert compare([], {}).row()["gap_error_s"] == {}


def test_every_run_of_streams_has_about_the_same_delays() -> None:
    """So that two tools which meet different streams of the script measure the same distribution."""
    script = Script(0, (0.1, 0.5), (0.02, 0.08))
    for first in (0, 17, 1000):
        drawn = [script.delays(stream, 64) for stream in range(first, first + 100)]
        ttft = sorted(delays[0] for delays in drawn)
        gaps = sorted(gap for delays in drawn for gap in delays[1:])
        assert ttft[50] == pytest.approx(0.3, abs=0.01)
        assert gaps[len(gaps) // 2] == pytest.approx(0.05, abs=0.001)
        assert ttft[0] >= 0.1
        assert ttft[-1] < 0.5
        assert len(set(gaps)) > 50
