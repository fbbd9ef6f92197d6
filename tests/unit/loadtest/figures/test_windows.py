"""A run over time."""

import pytest

from loadtest.figures.slo import Slo
from loadtest.figures.windows import windows
from tests.unit.loadtest.made_records import answered, unanswered

SLO = Slo(ttft_s=2.0)


def test_each_value_is_in_the_window_in_which_the_client_saw_it() -> None:
    first, second = windows([answered(8.0, ttft=1.0, gaps=(2.0, 3.0))], SLO, 10.0)
    assert (first.start_s, second.start_s) == (0.0, 10.0)
    assert (first.offered_per_s, second.offered_per_s) == pytest.approx((0.1, 0.0))
    assert (first.ttft_s.count, second.ttft_s.count) == (1, 0)
    assert (first.itl_s.count, second.itl_s.max) == (0, 3.0)
    assert (first.output_tokens_per_s, second.output_tokens_per_s) == pytest.approx((0.1, 0.2))
    assert (first.requests_per_s, second.requests_per_s) == pytest.approx((0.0, 0.1))
    assert (first.goodput_per_s, second.goodput_per_s) == pytest.approx((0.0, 0.1))
    assert (first.in_flight, second.in_flight) == (1, 0)


def test_windows_together_are_the_whole_run() -> None:
    records = [answered(i * 0.37, ttft=0.3 + i % 5) for i in range(50)] + [unanswered(3.3), unanswered(7.7)]
    found = windows(records, SLO, 2.5)
    assert sum(window.ttft_s.count for window in found) == 50
    assert sum(window.itl_s.count for window in found) == 200
    assert sum(window.offered_per_s for window in found) * 2.5 == pytest.approx(52)
    assert sum(window.requests_per_s for window in found) * 2.5 == pytest.approx(50)
    assert sum(window.goodput_per_s for window in found) * 2.5 == pytest.approx(20)
    assert sum(window.output_tokens_per_s for window in found) * 2.5 == pytest.approx(250)
    assert found[-1].in_flight == 0


def test_no_request_no_window() -> None:
    assert windows([], SLO, 1.0) == []
