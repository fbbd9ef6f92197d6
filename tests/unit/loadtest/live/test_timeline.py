"""The live timeline: what belongs to which window, that merging loses nothing, that its size does not grow."""

from dataclasses import replace

import numpy as np
import pytest

from loadtest.figures.record import RequestRecord
from loadtest.figures.slo import Slo
from loadtest.figures.summary import summarize
from loadtest.figures.windows import windows as exact_windows
from loadtest.live import buckets
from loadtest.live.timeline import FIRST_WIDTH_S, PERCENTILES, WINDOWS, Series, Timeline
from tests.unit.loadtest.live.made_requests import completed, poisson

ONE_PERCENT = 0.0101


def timeline_of(requests: list[RequestRecord], slo: Slo | None = None, warmup_s: float = 0.0) -> Timeline:
    timeline = Timeline(slo or Slo(), warmup_s)
    timeline.add(requests)
    return timeline


def windows_of(timeline: Timeline) -> dict[str, Series]:
    """Of a run that is over."""
    return timeline.windows(timeline.latest_s, timeline.latest_s, timeline.latest_s)


def in_all(timeline: Timeline, name: str) -> float:
    """A rate's sum over all windows, which are whole."""
    until_s = WINDOWS * timeline.width_s - 1e-9
    return sum(value or 0.0 for value in timeline.windows(until_s, until_s, until_s)[name]) * timeline.width_s


@pytest.mark.parametrize("percentile", [50, 90, 99])
def test_percentiles_are_within_one_percent(percentile: int) -> None:
    seconds = np.random.default_rng(0).lognormal(-3, 1.5, 5000)
    rows = buckets.empty(2)
    np.add.at(rows[0], buckets.bucket_of(seconds), 1)
    of_values, of_nothing = buckets.percentiles(rows, [percentile])[percentile]
    assert of_values == pytest.approx(np.percentile(seconds, percentile, method="inverted_cdf"), rel=ONE_PERCENT)
    assert np.isnan(of_nothing)


def test_a_value_belongs_to_the_window_in_which_it_was_seen() -> None:
    # Scheduled in the first window, first content in the second, the only gap ends in the third.
    windows = windows_of(timeline_of([completed(0, 0.0, ttft=2.5, itl=(2.5,)), completed(1, 1.0, ttft=6.9)]))
    assert windows["middle_s"] == pytest.approx([1.0, 3.0, 5.0, 6.95])
    assert windows["ttft_p50_s"] == [None, pytest.approx(2.5, rel=0.01), None, pytest.approx(6.9, rel=0.01)]
    assert windows["itl_p99_s"] == [None, None, pytest.approx(2.5, rel=0.01), None]
    assert windows["offered_per_s"] == [1.0, 0.0, 0.0, 0.0]
    assert windows["completed_per_s"] == [0.0, 0.0, 0.5, pytest.approx(1 / 1.9, rel=1e-3)]
    assert windows["output_tokens_per_s"] == [0.0, 0.5, 0.5, pytest.approx(1 / 1.9, rel=1e-3)]
    assert windows["running"] == pytest.approx([1.5, 2.0, 1.5, 1.0])


def test_agrees_with_the_reports_windows() -> None:
    requests = poisson(600, rate=20)
    slo = Slo(ttft_s=0.15)
    timeline = timeline_of(requests, slo)
    live = windows_of(timeline)
    whole = slice(int(timeline.latest_s // FIRST_WIDTH_S))
    exact = exact_windows(requests, slo, FIRST_WIDTH_S)[whole]
    assert len(exact) > 10
    for name, field in (
        ("offered_per_s", "offered_per_s"),
        ("completed_per_s", "requests_per_s"),
        ("good_per_s", "goodput_per_s"),
        ("output_tokens_per_s", "output_tokens_per_s"),
    ):
        assert live[name][whole] == pytest.approx([getattr(window, field) for window in exact], rel=1e-3), name
    # Hundreds of gaps a window: how the report interpolates between two of them makes no difference.
    assert live["itl_p50_s"][whole] == pytest.approx([window.itl_s.p50 for window in exact], rel=0.02)


def test_merged_windows_hold_what_their_parts_held() -> None:
    requests = poisson(2000, rate=10)
    timeline = Timeline(Slo(), 0.0)
    for begin in range(0, len(requests), 37):  # windows are merged while requests come
        timeline.add(requests[begin : begin + 37])
    together = timeline_of(requests)
    assert timeline.width_s == together.width_s == 2 * FIRST_WIDTH_S
    assert windows_of(timeline) == windows_of(together)
    assert in_all(timeline, "completed_per_s") == pytest.approx(2000, rel=1e-4)
    assert in_all(timeline, "output_tokens_per_s") == pytest.approx(22_000, rel=1e-4)


@pytest.mark.parametrize("hours", [1, 100])
def test_size_does_not_grow_with_the_run(hours: int) -> None:
    timeline = timeline_of([completed(hour, 3600.0 * hour) for hour in range(hours + 1)])
    windows = windows_of(timeline)
    assert WINDOWS / 2 <= len(windows["middle_s"]) <= WINDOWS
    assert sum(rows.size for rows in timeline._latencies.values()) == len(PERCENTILES) * buckets.empty(WINDOWS + 1).size
    assert in_all(timeline, "completed_per_s") == pytest.approx(hours + 1, rel=1e-4)


def test_totals_are_the_summarys_and_leave_the_warm_up_out() -> None:
    requests = poisson(2000, rate=20, gaps=20)
    requests[1000] = replace(requests[1000], outcome="cancelled")
    slo = Slo(ttft_s=0.2)
    timeline = timeline_of(requests, slo, warmup_s=30.0)
    totals = timeline.totals(timeline.latest_s)
    summary = summarize(requests, slo, warmup_s=30.0, until_s=timeline.latest_s)
    assert totals["ended"] == summary.requests < 2000
    assert totals["good_share"] == pytest.approx(summary.goodput_share, rel=1e-4)
    for name in ("ttft", "itl", "tpot"):
        distribution = getattr(summary, f"{name}_s")
        for percentile in ("p50", "p99"):
            assert totals[f"{name}_{percentile}_s"] == pytest.approx(getattr(distribution, percentile), rel=0.03)


def test_what_cannot_be_known_yet_is_not_told() -> None:
    windows = timeline_of(poisson(200, rate=20)).windows(until_s=10.0, ends_known_s=9.0, starts_known_s=5.0)
    assert [value is None for value in windows["completed_per_s"]] == [False, False, False, False, True, True]
    assert [value is None for value in windows["offered_per_s"]] == [False, False, True, True, True, True]
    assert [value is None for value in windows["running"]] == [False, False, True, True, True, True]


def test_phases_and_paths_where_the_proxy_tells_them() -> None:
    told = [
        replace(completed(0, 0.0), path="disaggregated", phases={"prefill": 0.25, "transfer": 0.125, "other": 1.0}),
        replace(completed(1, 0.0), path="disaggregated", phases={"prefill": 0.75}),
        replace(completed(2, 0.0), path="local"),
        completed(3, 0.0),
    ]
    windows = windows_of(timeline_of(told))
    assert windows["disaggregated_share"] == [pytest.approx(2 / 3, rel=1e-4)]
    assert windows["prefill_mean_s"] == [0.5]
    assert windows["transfer_mean_s"] == [0.125]
    assert windows["queue_mean_s"] == [None]


def test_requests_that_did_not_complete() -> None:
    windows = windows_of(
        timeline_of(
            [
                completed(0, 1.0, ttft=1.0),
                RequestRecord(index=1, outcome="failed", scheduled=0.0, started=0.0, ended=0.5),
                RequestRecord(
                    index=2, outcome="cut_off", scheduled=0.0, started=0.0, first_content=0.5, itl=(0.5,), ended=1.5
                ),
            ]
        )
    )
    assert (windows["failed_per_s"][0], windows["cut_off_per_s"][0], windows["completed_per_s"][0]) == (0.5, 0.5, 0.0)
    assert windows["output_tokens_per_s"][0] == 1.0  # two chunks of the answer that broke off
