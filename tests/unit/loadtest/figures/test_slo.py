"""What counts as good, and the worst gaps of a request."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest.figures.slo import Slo, worst_gaps
from tests.unit.loadtest.made_records import answered, unanswered

GAPS = st.lists(st.floats(0.001, 10), min_size=1, max_size=50)


@pytest.mark.parametrize(
    ("gaps", "mean"),
    [
        ([], None),
        ([0.3], 0.3),
        ([0.1] * 9 + [0.9], 0.9),  # the longest of ten
        ([0.1] * 9 + [0.7, 0.9], 0.8),  # of eleven the longest two
        ([0.1] * 18 + [0.5, 1.5], 1.0),
    ],
)
def test_worst_gaps_are_the_mean_of_the_longest_tenth(gaps: list[float], mean: float | None) -> None:
    assert worst_gaps(gaps) == (None if mean is None else pytest.approx(mean))


@given(GAPS)
def test_worst_gaps_lie_between_the_mean_and_the_longest(gaps: list[float]) -> None:
    found = worst_gaps(gaps)
    assert found is not None
    assert sum(gaps) / len(gaps) <= found * (1 + 1e-9)
    assert found <= max(gaps) * (1 + 1e-9)


@pytest.mark.parametrize(
    ("slo", "good"),
    [
        (Slo(), True),
        (Slo(ttft_s=0.5), True),
        (Slo(ttft_s=0.49), False),
        (Slo(tpot_s=0.2), True),
        (Slo(tpot_s=0.19), False),
        (Slo(itl_s=0.5), True),
        (Slo(itl_s=0.49), False),
        (Slo(ttft_s=0.5, tpot_s=0.2, itl_s=0.49), False),
    ],
)
def test_every_bound_must_hold(slo: Slo, good: bool) -> None:
    record = answered(4.0, ttft=0.5, gaps=(0.125, 0.125, 0.125, 0.5, 0.125))  # TPOT 0.2, worst gap 0.5
    assert slo.met_by(record) is good


def test_ttft_of_the_slo_counts_from_the_scheduled_start() -> None:
    late = answered(0.0, ttft=3.0, started=2.9)
    assert not Slo(ttft_s=1.0).met_by(late)


def test_only_completed_requests_are_good() -> None:
    assert not Slo().met_by(unanswered(0.0))
    assert not Slo().met_by(answered(0.0, outcome="cut_off"))
    assert not Slo().met_by(answered(0.0, outcome="cancelled"))


def test_an_answer_without_content_is_judged_by_its_end() -> None:
    empty = answered(0.0, ttft=1.0, gaps=(), first_content=None, output_tokens=1)
    assert Slo(ttft_s=1.0, tpot_s=0.1, itl_s=0.1).met_by(empty)
    assert not Slo(ttft_s=0.9).met_by(empty)


def test_text() -> None:
    assert str(Slo(2.0, 0.2, 0.4)) == "TTFT ≤ 2 s, TPOT ≤ 0.2 s, worst gaps ≤ 0.4 s"
    assert str(Slo()) == "completed"
