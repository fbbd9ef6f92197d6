"""The figures of a run: hand-computed ones, and what holds for every run."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest.figures.columns import Columns
from loadtest.figures.record import RequestRecord
from loadtest.figures.slo import Slo
from loadtest.figures.summary import Distribution, distribution, summarize
from tests.unit.loadtest.made_records import answered, unanswered

SLO = Slo(ttft_s=1.0)


def test_percentiles_interpolate_between_the_nearest_values() -> None:
    found = distribution(np.array([4.0, 1.0, math.nan, 3.0, 2.0, 5.0]))
    assert found == Distribution(count=5, mean=3.0, p50=3.0, p90=4.6, p95=4.8, p99=4.96, max=5.0)


def test_of_nothing_there_is_only_a_count() -> None:
    assert distribution(np.array([math.nan])) == Distribution(count=0)


def test_a_run_by_hand() -> None:
    records = [
        answered(0.0, ttft=9.0),  # warm-up: ends at 9.4, within the span
        answered(2.0, ttft=0.5, gaps=(0.1, 0.3), prompt_tokens=10, cached_tokens=4, path="local"),
        answered(4.0, ttft=1.5, gaps=(0.2,), prompt_tokens=10, cached_tokens=0, path="disaggregated", transport="tcp"),
        unanswered(6.0, error="TimedOut"),
        answered(8.0, ttft=4.0, gaps=(0.1,)),  # its tokens come when the load has ended
        answered(9.0, outcome="cancelled", ttft=0.5, gaps=(0.1,), output_tokens=None),
        answered(10.0),  # scheduled at the very end of the span: outside
    ]
    found = summarize(records, SLO, warmup_s=2.0, until_s=10.0)
    assert (found.from_s, found.until_s, found.requests) == (2.0, 10.0, 5)
    assert found.outcomes == {"completed": 3, "failed": 1, "cut_off": 0, "cancelled": 1}
    assert found.errors == {"TimedOut": 1}
    assert found.offered_per_s == pytest.approx(5 / 8)
    assert found.requests_per_s == pytest.approx(3 / 8)  # ended from 2 s until 10 s: the first three answers
    assert found.output_tokens_per_s == pytest.approx((5 + 3 + 2 + 2) / 8)  # a chunk is a token where nobody counted
    assert found.goodput_per_s == pytest.approx(1 / 8)
    assert found.goodput_share == pytest.approx(1 / 4)  # the cancelled one is not judged
    assert (found.ttft_s.count, found.ttft_s.max) == (4, 4.0)
    assert (found.itl_s.count, found.itl_s.max) == pytest.approx((5, 0.3))
    assert found.tpot_s.count == 3
    assert found.tpot_s.max == pytest.approx(0.2)
    assert found.end_to_end_s.count == 3
    assert found.worst_gaps_s.max == pytest.approx(0.3)
    assert found.cached_share == pytest.approx(0.2)
    assert found.paths == {"local": 1, "disaggregated": 1}
    assert found.transports == {"tcp": 1}


def test_start_delay_is_a_figure_of_its_own_and_part_of_ttft() -> None:
    found = summarize([answered(1.0, ttft=2.0, started=2.5)], SLO, until_s=5.0)
    assert found.start_delay_s.max == pytest.approx(1.5)
    assert found.ttft_s.max == pytest.approx(2.0)


def test_an_answers_tokens_are_spread_over_its_chunks() -> None:
    spread = answered(0.0, ttft=1.0, gaps=(2.0,), output_tokens=10)  # five tokens at 1 s, five at 3 s
    assert summarize([spread], SLO, until_s=2.0).output_tokens_per_s == pytest.approx(2.5)
    assert summarize([spread], SLO, until_s=4.0).output_tokens_per_s == pytest.approx(2.5)


def test_second_tokens_by_who_computed_the_first() -> None:
    records = [
        answered(0.0, first_token="producer", second_token=0.3),
        answered(1.0, first_token="producer", second_token=0.1),
        answered(2.0, first_token="producer"),  # an answer of one token
        answered(3.0, first_token="consumer", second_token=0.05),
        answered(4.0, second_token=9.0),  # alone: nobody else could have computed it
    ]
    found = summarize(records, SLO)
    assert found.first_tokens == {"producer": 3, "consumer": 1}
    assert {who: (gaps.count, gaps.max) for who, gaps in found.second_token_s.items()} == {
        "producer": (2, 0.3),
        "consumer": (1, 0.05),
    }


def test_phases_are_of_the_requests_that_tell_them() -> None:
    records = [
        answered(0.0, phases={"queue": 0.1}),
        answered(1.0, phases={"queue": 0.3, "prefill": 0.2}),
        answered(2.0),
    ]
    phases = summarize(records, SLO, until_s=3.0).phases_s
    assert (phases["queue"].count, phases["queue"].mean) == pytest.approx((2, 0.2))
    assert (phases["prefill"].count, phases["prefill"].max) == (1, 0.2)


def test_lengths_that_were_not_wanted_are_counted() -> None:
    records = [
        answered(0.0, wanted_output_tokens=5, wanted_input_tokens=8, prompt_tokens=8),
        answered(1.0, wanted_output_tokens=6, wanted_input_tokens=8, prompt_tokens=9),
        answered(2.0, wanted_output_tokens=6),
        answered(3.0, wanted_output_tokens=6, outcome="cut_off"),
    ]
    assert summarize(records, SLO, until_s=4.0).unexpected_lengths == {"input": 1, "output": 2}


def test_an_empty_run() -> None:
    found = summarize([], SLO)
    assert found.requests == 0
    assert found.offered_per_s is None
    assert found.goodput_share is None
    assert found.ttft_s == Distribution()


def test_a_run_of_failures_only() -> None:
    found = summarize([unanswered(0.0), unanswered(1.0, error="ConnectionFailed"), unanswered(2.0)], SLO, until_s=4.0)
    assert found.outcomes["failed"] == 3
    assert found.errors == {"HttpError": 2, "ConnectionFailed": 1}  # the most frequent first
    assert (found.requests_per_s, found.goodput_per_s, found.output_tokens_per_s) == (0.0, 0.0, 0.0)
    assert found.end_to_end_s.count == 0


def test_a_run_that_was_killed_ends_with_its_last_request() -> None:
    found = summarize([answered(0.0), answered(4.0)], SLO)
    assert (found.requests, found.until_s) == (2, 4.0)
    assert found.offered_per_s == pytest.approx(0.5)


@st.composite
def runs(draw: st.DrawFn) -> list[RequestRecord]:
    moments = st.floats(0, 100)
    durations = st.floats(0.001, 20)
    answers = st.builds(answered, moments, durations, st.lists(durations, max_size=5))
    return draw(st.lists(st.one_of(answers, st.builds(unanswered, moments, durations)), max_size=30))


@given(runs(), st.floats(0, 50), st.floats(0, 120))
def test_what_holds_for_every_run(records: list[RequestRecord], warmup_s: float, until_s: float) -> None:
    found = summarize(records, SLO, warmup_s=warmup_s, until_s=until_s)
    assert sum(found.outcomes.values()) == found.requests
    assert found.end_to_end_s.count == found.outcomes["completed"]
    assert 0 <= (found.goodput_share or 0.0) <= 1
    assert (found.goodput_per_s or 0.0) <= (found.offered_per_s or 0.0) + 1e-6
    for values in (found.ttft_s, found.itl_s, found.tpot_s, found.end_to_end_s, found.worst_gaps_s):
        if values.count:
            ordered = [values.p50, values.p90, values.p95, values.p99, values.max]
            assert ordered == sorted(ordered, key=lambda value: value or 0.0)
    assert summarize(records[::-1], SLO, warmup_s=warmup_s, until_s=until_s).ttft_s.p99 == found.ttft_s.p99


def test_hours_of_requests_fit_into_memory() -> None:
    """Ten hours at ten requests a second with answers of 100 tokens are to need no more than 250 MB."""
    requests, tokens = 1000, 100
    columns = Columns.of((answered(i * 0.1, gaps=(0.05,) * (tokens - 1)) for i in range(requests)), SLO)
    arrays = [*columns.numbers.values(), *columns.names.values(), *columns.phases.values()]
    arrays += [columns.good, columns.worst_gaps, columns.gaps, columns.gap_counts]
    assert sum(array.nbytes for array in arrays) / requests < 250e6 / (10 * 3600 * 10)
