"""Ratios between two sides at each point, and which of them count: pure functions of a document's rows.

A ratio is that of one repeat: both sides had the same requests. Of several repeats there is a median and a range.
"""

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from benchmarks.serving.measured import ALL
from benchmarks.tables import Row, groups

Verdict = Literal["wins", "loses", "even", "unclear", "few", ""]
# Fewer values than this have no 99th percentile: it is their maximum, or nearly so.
FEWEST_FOR_P99 = 100
# A median of fewer is at the mercy of one or two requests, and so is a count of the good ones among them.
FEWEST = 10
# Where no control has been measured: what two runs of the same thing may differ by.
TOLERANCE = 0.1


@dataclass(frozen=True)
class Figure:
    """`key`: of a row. `count`: the row's number of values behind it, or its numbers by kind."""

    name: str
    key: str
    count: str
    better: Literal["lower", "higher"] = "lower"

    @property
    def is_p99(self) -> bool:
        return "_p99_" in self.key

    def values(self, row: Row) -> int:
        count = row[self.count]
        return sum(count.values()) if isinstance(count, dict) else int(count)


TTFT_P50 = Figure("TTFT P50", "ttft_p50_s", "ttft_n")
TTFT_P99 = Figure("TTFT P99", "ttft_p99_s", "ttft_n")
ITL_P50 = Figure("ITL P50", "itl_p50_s", "itl_n")
ITL_P99 = Figure("ITL P99", "itl_p99_s", "itl_n")
TPOT_P50 = Figure("TPOT P50", "tpot_p50_s", "tpot_n")
# Of all requests: a side that answers hardly any has few first tokens, and loses by that.
GOODPUT = Figure("goodput", "goodput_per_s", "outcomes", "higher")
FIGURES = (TTFT_P50, TTFT_P99, ITL_P50, ITL_P99, TPOT_P50, GOODPUT)


@dataclass(frozen=True)
class Ratio:
    """First side divided by the second; `low` and `high` over the repeats. `values`: the fewest behind any of them."""

    median: float
    low: float
    high: float
    values: int
    verdict: Verdict = ""


@dataclass(frozen=True)
class Comparison:
    """One point, one kind of requests. `left_out`: why its ratios count for nothing; empty: they do."""

    point: str
    requests: str
    ratios: Mapping[str, Ratio]
    left_out: str = ""
    saturated: tuple[str, ...] = ()  # sides

    def verdict(self, figure: Figure) -> Verdict:
        ratio = self.ratios.get(figure.name)
        return ratio.verdict if ratio and not self.left_out else ""

    def figures(self, verdict: Verdict) -> list[str]:
        return [figure.name for figure in FIGURES if self.verdict(figure) == verdict]


def compare(rows: Sequence[Row], first: str, second: str, noise: Mapping[str, float]) -> list[Comparison]:
    """Of every point that both sides have measured. `noise`: by name of a figure, what counts as even, else 0.1."""
    return [
        Comparison(
            point,
            requests,
            {figure.name: ratio for figure in FIGURES if (ratio := _ratio(figure, pairs, noise.get(figure.name)))},
            _why_left_out(pairs, (first, second)),
            tuple(side for side in (first, second) if any(_on(side, pair)["saturation"] for pair in pairs)),
        )
        for (point, requests), pairs in _pairs(rows, first, second)
    ]


def noise(rows: Sequence[Row], first: str, second: str) -> dict[str, float]:
    """How far apart two equal sides are at worst: 0.2 says a ratio of 1.2 or 1/1.2. Only points that count."""
    found: dict[str, float] = {}
    for comparison in compare(rows, first, second, {}):
        if comparison.left_out or comparison.requests != ALL:
            continue
        for name, ratio in comparison.ratios.items():
            if ratio.verdict != "few" and ratio.low > 0 and ratio.high < math.inf:
                found[name] = max(found.get(name, 0.0), ratio.high - 1, 1 / ratio.low - 1)
    return found


def _pairs(rows: Sequence[Row], first: str, second: str) -> Iterator[tuple[tuple[str, str], list[tuple[Row, Row]]]]:
    for (point, requests), group in groups(rows, "point", "requests").items():
        repeats = groups(group, "repeat", "side")
        pairs = [
            (repeats[repeat, first][0], repeats[repeat, second][0])
            for repeat in sorted({row["repeat"] for row in group})
            if (repeat, first) in repeats and (repeat, second) in repeats
        ]
        if pairs:
            yield (point, requests), pairs


def _ratio(figure: Figure, pairs: Sequence[tuple[Row, Row]], noise: float | None) -> Ratio | None:
    """None: one side has no such figure, e.g. no gaps at all, or no good request on either side."""
    found = [_quotient(one[figure.key], other[figure.key]) for one, other in pairs]
    known = [quotient for quotient in found if quotient is not None]
    if not known:
        return None
    values = min(figure.values(row) for pair in pairs for row in pair)
    ratio = Ratio(statistics.median(known), min(known), max(known), values)
    return replace(ratio, verdict=_verdict(figure, ratio, max(TOLERANCE, noise or 0.0)))


def _quotient(one: float | None, other: float | None) -> float | None:
    if one is None or other is None or one == other == 0:
        return None
    return one / other if other else math.inf


def _verdict(figure: Figure, ratio: Ratio, tolerance: float) -> Verdict:
    if ratio.values < (FEWEST_FOR_P99 if figure.is_p99 else FEWEST):
        return "few"
    low, high = 1 / (1 + tolerance), 1 + tolerance
    if low <= ratio.low and ratio.high <= high:
        return "even"
    if ratio.high < low:
        return "wins" if figure.better == "lower" else "loses"
    if ratio.low > high:
        return "loses" if figure.better == "lower" else "wins"
    return "unclear"


def _why_left_out(pairs: Sequence[tuple[Row, Row]], sides: Sequence[str]) -> str:
    reasons = []
    for side in sides:
        rows = [_on(side, pair) for pair in pairs]
        if any(row["saturation"] for row in rows):
            reasons.append(f"{side} saturated")
        if any(row["generator_limit"] for row in rows):
            reasons.append(f"load generator at its limit ({side})")
        if not all(row["ttft_n"] for row in rows):
            reasons.append(f"{side} without answers")
    return ", ".join(reasons)


def _on(side: str, pair: tuple[Row, Row]) -> Row:
    return pair[0] if pair[0]["side"] == side else pair[1]
