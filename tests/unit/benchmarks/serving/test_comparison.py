"""Ratios, what of them counts, and the paragraph that a reader acts on."""

import math

import pytest

from benchmarks.serving.plan import AGAIN, AGGREGATED, DISAGGREGATED
from benchmarks.serving.points import PROMPTS, STREAMS
from benchmarks.serving.report.comparison import GOODPUT, ITL_P99, TTFT_P50, TTFT_P99, Comparison, compare, noise
from benchmarks.serving.report.conclusion import paragraph
from benchmarks.tables import Row
from tests.unit.benchmarks.serving.figures import MIXTURE, POINT, pair, row


def compared(rows: list[Row], **control: float) -> list[Comparison]:
    return compare(rows, DISAGGREGATED, AGGREGATED, control)


def only(rows: list[Row]) -> Comparison:
    (found,) = compared(rows)
    return found


def told(*rows: list[Row]) -> str:
    return paragraph(compared([row for some in rows for row in some]))


@pytest.mark.parametrize(("ratio", "verdict"), [(0.5, "wins"), (0.95, "even"), (1.05, "even"), (2.0, "loses")])
def test_less_time_is_better(ratio: float, verdict: str) -> None:
    assert only(pair(ttft_p50_s=ratio)).verdict(TTFT_P50) == verdict


@pytest.mark.parametrize(("ratio", "verdict"), [(0.5, "loses"), (1.0, "even"), (2.0, "wins")])
def test_more_goodput_is_better(ratio: float, verdict: str) -> None:
    assert only(pair(goodput_per_s=ratio)).verdict(GOODPUT) == verdict


def test_a_ratio_is_that_of_the_same_requests() -> None:
    rows = [row for repeat, ttft in enumerate((0.4, 0.5, 0.9)) for row in pair(repeat=repeat, ttft_p50_s=ttft)]
    ratio = only(rows).ratios["TTFT P50"]
    assert (ratio.low, ratio.median, ratio.high) == (0.4, 0.5, 0.9)


def test_repeats_that_disagree_decide_nothing() -> None:
    rows = [row for repeat, ttft in enumerate((0.5, 2.0)) for row in pair(repeat=repeat, ttft_p50_s=ttft)]
    assert only(rows).verdict(TTFT_P50) == "unclear"


def test_a_point_of_one_side_is_no_comparison() -> None:
    assert compared([row(DISAGGREGATED)]) == []


def test_the_p99_of_few_values_is_not_judged() -> None:
    rows = [{**row, "ttft_n": 30} for row in pair(ttft_p99_s=9.0, itl_p99_s=9.0)]
    assert only(rows).verdict(TTFT_P99) == "few"
    assert only(rows).verdict(ITL_P99) == "loses"


def test_what_a_control_differs_by_counts_as_even() -> None:
    rows = pair(ttft_p50_s=1.3)
    assert compared(rows)[0].verdict(TTFT_P50) == "loses"
    assert compared(rows, **{"TTFT P50": 0.4})[0].verdict(TTFT_P50) == "even"


def test_noise_is_how_far_apart_equal_sides_are_in_either_direction() -> None:
    rows = [row(DISAGGREGATED, ttft_p50_s=1.0), row(AGAIN, ttft_p50_s=0.5)]
    rows += [row(DISAGGREGATED, "1/1@1"), row(AGAIN, "1/1@1", ttft_p50_s=1.5)]
    rows += [row(DISAGGREGATED, "2/2@1"), row(AGAIN, "2/2@1", ttft_p50_s=9.0, saturation="TTFT grew")]
    found = noise(rows, AGAIN, DISAGGREGATED)
    assert found["TTFT P50"] == 1.0
    assert found["ITL P99"] == 0.0


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"saturation": "TTFT grew"}, "aggregated saturated"),
        ({"generator_limit": "late"}, "load generator at its limit (aggregated)"),
        ({"ttft_n": 0, "ttft_p50_s": None}, "aggregated without answers"),
    ],
)
def test_points_that_count_for_nothing_keep_their_ratios(more: Row, reason: str) -> None:
    found = only([row(DISAGGREGATED), row(AGGREGATED, **more)])
    assert found.left_out == reason
    assert found.ratios["ITL P99"].median == 1.0
    assert found.verdict(ITL_P99) == ""


def test_no_good_request_on_the_other_side_is_infinitely_better_and_on_both_nothing() -> None:
    assert only([row(DISAGGREGATED), row(AGGREGATED, goodput_per_s=0.0)]).ratios["goodput"].median == math.inf
    both = [row(side, goodput_per_s=0.0) for side in (DISAGGREGATED, AGGREGATED)]
    assert "goodput" not in only(both).ratios


def test_where_it_wins_and_where_it_loses() -> None:
    text = told(pair("64/200@1", itl_p99_s=0.1), pair("2000/8@1", ttft_p50_s=1.8))
    assert text == (
        "**Disaggregate** for traffic like 64 tokens in, 200 out, at 1 requests/s "
        "(goodput 1.00 times, ITL P99 0.10 times, TTFT P50 1.00 times). "
        "**Do not** for 2,000 tokens in, 8 out, at 1 requests/s "
        "(goodput 1.00 times, ITL P99 1.00 times, TTFT P50 1.80 times)."
    )


def test_where_it_only_loses_the_reader_is_told_not_to() -> None:
    text = told(pair("2000/8@1", ttft_p50_s=1.8), pair("2000/8@2", ttft_p50_s=2.2, itl_p99_s=1.5))
    assert text == (
        "**Do not disaggregate here** for 2,000 tokens in, 8 out, at 1 and 2 requests/s "
        "(goodput 1.00 times, ITL P99 1.00 to 1.50 times, TTFT P50 1.80 to 2.20 times)."
    )


def test_steadier_streams_and_later_first_tokens_are_an_exchange() -> None:
    assert told(pair(itl_p99_s=0.3, ttft_p50_s=1.8)).startswith("It is an **exchange**, steadiness")


def test_goodput_decides_over_the_others() -> None:
    assert told(pair(itl_p99_s=0.3, goodput_per_s=0.5)).startswith("**Do not disaggregate here**")
    assert told(pair(ttft_p50_s=1.8, goodput_per_s=1.5)).startswith("**Disaggregate**")


def test_no_difference_is_said_too() -> None:
    assert told(pair()).startswith("Nothing here speaks for or against disaggregation: 512 tokens in")
    assert "No difference that counts: 512 tokens" in told(pair(), pair("1/1@1", itl_p99_s=0.1))


def test_in_a_mixture_the_steadiness_is_that_of_the_streams() -> None:
    streams, prompts = pair(MIXTURE, STREAMS, itl_p99_s=0.1), pair(MIXTURE, PROMPTS, itl_p99_s=5.0)
    text = told(pair(MIXTURE, itl_p99_s=1.0), streams, prompts)
    assert text.startswith(
        "**Disaggregate** for traffic like 64 tokens in, 200 out, while prompts of 8,000 arrive (10%"
    )
    assert "ITL P99 of streams 0.10 times" in text


def test_points_at_a_limit_decide_nothing_and_are_told_of() -> None:
    overloaded = pair("512/64@9", ttft_p50_s=50.0)
    overloaded[0]["saturation"] = "TTFT grew"
    text = told(pair(POINT, itl_p99_s=0.2), overloaded)
    assert "50.00" not in text
    assert (
        "Only the disaggregated side did not keep up (aggregated did) for 512 tokens in, 64 out, at 9 requests/s."
        in text
    )
    assert "1 of 2 points count" in text


def test_without_a_point_that_counts_nothing_is_concluded() -> None:
    overloaded = [{**row, "saturation": "TTFT grew"} for row in pair()]
    text = told(overloaded)
    assert text.startswith("Nothing can be concluded: no point counts, and the table says why. Neither kept up")


def test_what_has_too_few_values_is_named() -> None:
    assert told([{**row, "ttft_n": 30} for row in pair()]).endswith(
        "TTFT P99: not judged where fewer than 100 values are behind it."
    )


def test_a_handful_of_requests_decides_nothing() -> None:
    counts = {"ttft_n": 9, "itl_n": 90, "tpot_n": 9, "outcomes": {"completed": 9}}
    text = told([{**row, **counts} for row in pair(ttft_p50_s=5.0, goodput_per_s=0.5)])
    assert text.startswith("Nothing here speaks for or against disaggregation")
    assert text.endswith(
        "TTFT P99 and ITL P99: not judged where fewer than 100 values are behind it. "
        "TTFT P50, TPOT P50 and goodput: not judged where fewer than 10 values are behind it."
    )
    assert told([{**row, "ttft_n": 10} for row in pair(ttft_p50_s=5.0)]).startswith("**Do not disaggregate here**")


def test_a_side_that_answers_a_handful_of_many_requests_loses() -> None:
    outcomes = {"completed": 5, "failed": 195}
    failing = row(DISAGGREGATED, ttft_n=5, goodput_per_s=0.01, outcomes=outcomes)
    assert told([failing, row(AGGREGATED)]).startswith("**Do not disaggregate here**")


def test_repeats_that_disagree_are_told_of() -> None:
    text = told(pair(ttft_p50_s=0.5), pair(repeat=1, ttft_p50_s=2.0))
    assert text.endswith("The repeats disagree on TTFT P50 at some of the points.")
