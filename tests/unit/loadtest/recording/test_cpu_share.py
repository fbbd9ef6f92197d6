"""How busy the load generator was: what it does before the load and after it must not hide it, nor be taken for it."""

from collections.abc import Callable
from time import perf_counter

import gevent
import pytest

from loadtest.recording.cpu_share import CpuShare

WINDOW_S = 0.05


def busy(*spans: tuple[float, float]) -> Callable[[], float]:
    """CPU seconds of a process that needs a whole core in these spans, in seconds from now."""
    began = perf_counter()
    return lambda: sum(min(max(perf_counter() - began - start, 0.0), end - start) for start, end in spans)


def test_idle_seconds_do_not_hide_busy_ones() -> None:
    share = CpuShare(WINDOW_S, busy((0.0, 0.2)))
    share.begin()
    gevent.sleep(0.6)
    share.end()
    assert share.busiest > 0.95


def test_what_comes_after_the_end_does_not_count() -> None:
    share = CpuShare(WINDOW_S, busy((0.15, 9.0)))
    share.begin()
    gevent.sleep(0.1)
    share.end()
    gevent.sleep(0.2)
    assert share.busiest < 0.5
    share.begin()
    gevent.sleep(0.1)
    assert share.busiest > 0.95


def test_what_comes_before_the_measured_load_does_not_count() -> None:
    share = CpuShare(WINDOW_S, busy((0.0, 0.1)))
    share.begin(ahead_s=0.15)
    gevent.sleep(0.4)
    assert share.busiest < 0.1


def test_of_a_short_run_it_is_the_mean() -> None:
    share = CpuShare(5.0, busy((0.0, 9.0)))
    share.begin()
    gevent.sleep(0.05)
    share.end()
    assert share.busiest == pytest.approx(1.0, abs=0.05)
