"""What running streams show of something else that is computed, by hand."""

import pytest

from benchmarks.connector.client import Stream
from benchmarks.profile.windows import longest_gap, shared_step

USUAL = 0.005


def stream(*gaps_s: float) -> Stream:
    """The first token at 0.1 s."""
    return Stream(0.1, list(gaps_s), [], 0, None, None)


def test_the_time_of_a_shared_step_is_all_by_which_the_gaps_around_it_are_longer() -> None:
    """Of a step of 25 ms 8 ms were in the gap before its own, because it took that long to be launched."""
    one_ahead = stream(*[USUAL] * 4, 0.013, 0.017, *[USUAL] * 4)
    assert longest_gap(one_ahead, 0.121, 0.150) == pytest.approx(0.017)
    assert shared_step(one_ahead, 0.121, 0.150) == pytest.approx(0.025)
    at_once = stream(*[USUAL] * 4, 0.025, *[USUAL] * 4)
    assert longest_gap(at_once, 0.121, 0.145) == shared_step(at_once, 0.121, 0.145) == pytest.approx(0.025)


def test_gaps_outside_of_the_span_do_not_count() -> None:
    """Of the span from 0.106 to 0.109 s only the second gap has a moment, which begins at 0.105 s."""
    found = stream(0.005, 0.006, 0.020, 0.005, 0.005)
    assert shared_step(found, 0.106, 0.109) == pytest.approx(0.006)
    assert longest_gap(found, 0.2, 0.3) == shared_step(found, 0.2, 0.3) == 0.0
