"""The page of a check: predicted beside measured, by how much they differ, and whether the winner was the right one."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from benchmarks.serving.measured import ALL
from benchmarks.serving.plan import AGGREGATED, DISAGGREGATED
from benchmarks.serving.report.sections import Section
from benchmarks.tables import Row, groups, ms
from loadtest.figures.summary import Summary
from planner.profile import Profile

TITLE = "Predicted beside measured"
# The figures that a plan promises something of, with how far off a prediction may be.
TARGETS = {"ttft_p50_s": 0.15, "tpot_p50_s": 0.15, "itl_p99_s": 0.30}
NAMES = {"ttft_p50_s": "TTFT P50", "tpot_p50_s": "TPOT P50", "itl_p99_s": "ITL P99"}
EVEN = (0.9, 1.1)  # measured ratios between these have no winner
LEAST = 0.02  # that a predicted ratio has to differ from 1 by
FEWEST_FOR_P99 = 100


@dataclass(frozen=True)
class Compared:
    """A row of the comparison, and the simulation of the same requests."""

    measured: Row
    predicted: Summary

    def pair(self, figure: str) -> tuple[float, float] | None:
        """Predicted and measured, in seconds; None: either has none, or the measured one is too few values'."""
        word, percentile, _ = figure.split("_")
        predicted, measured = getattr(getattr(self.predicted, f"{word}_s"), percentile), self.measured[figure]
        too_few = percentile == "p99" and self.measured[f"{word}_n"] < FEWEST_FOR_P99
        return None if not predicted or not measured or too_few else (predicted, measured)

    def error(self, figure: str) -> float | None:
        """(predicted - measured) / measured."""
        pair = self.pair(figure)
        return None if pair is None else pair[0] / pair[1] - 1


@dataclass(frozen=True)
class Winner:
    """Of one figure at one point: disaggregated divided by aggregated, predicted and measured."""

    point: str
    requests: str
    figure: str
    predicted: float
    measured: float

    @property
    def is_clear(self) -> bool:
        return not EVEN[0] <= self.measured <= EVEN[1]

    @property
    def is_right(self) -> bool:
        """On the same side; a prediction of no difference at all is none of a winner."""
        return abs(self.predicted - 1) > LEAST and (self.predicted > 1) == (self.measured > 1)


def lead(compared: Sequence[Compared]) -> str:
    parts = []
    for figure, target in TARGETS.items():
        errors = [abs(error) for each in compared if (error := each.error(figure)) is not None]
        if errors:
            kept = sum(error <= target for error in errors)
            parts.append(
                f"{NAMES[figure]} is off by {median(errors):.0%} in the median and by {max(errors):.0%} at most "
                f"({kept} of {len(errors)} within {target:.0%})"
            )
    clear = [winner for winner in winners(compared) if winner.is_clear]
    right = sum(winner.is_right for winner in clear)
    told = "; ".join(parts) + "." if parts else "Nothing can be compared."
    return f"{told} The right side wins in {right} of the {len(clear)} figures whose measured ratio is clear."


def winners(compared: Sequence[Compared]) -> Iterator[Winner]:
    by_point: dict[tuple[str, str, int], dict[str, Compared]] = {}
    for each in compared:
        row = each.measured
        by_point.setdefault((row["point"], row["requests"], row["repeat"]), {})[row["side"]] = each
    for (point, requests, _), sides in by_point.items():
        for figure in TARGETS if len(sides) == 2 else ():
            one, other = sides[DISAGGREGATED].pair(figure), sides[AGGREGATED].pair(figure)
            if one and other:
                yield Winner(point, requests, figure, one[0] / other[0], one[1] / other[1])


def sections(compared: Sequence[Compared], profile: Profile, about: dict[str, Any]) -> Iterator[Section]:
    text = (
        f"Of the runs in `{about['results']}` the same requests at the same times. In brackets: (predicted - measured) "
        "/ measured. A P99 of fewer than 100 values is left out."
    )
    header = ("in/out tokens @ requests/s", "requests", "side", *(f"{NAMES[figure]}, ms" for figure in TARGETS))
    lines = []
    for group in groups([{**each.measured, "of": each} for each in compared], "point", "requests").values():
        for row in sorted(group, key=lambda row: (row["side"], row["repeat"])):
            requests = "all" if row["requests"] == ALL else row["requests"]
            lines.append((row["point"], requests, row["side"], *(_cell(row["of"], figure) for figure in TARGETS)))
    yield Section("Figures: predicted, measured", [text], header, lines, about["command"])
    found = [
        (each.point, each.requests, NAMES[each.figure], f"{each.predicted:.2f}", f"{each.measured:.2f}", _verdict(each))
        for each in winners(compared)
    ]
    yield Section(
        "Who wins: disaggregated divided by aggregated",
        [f"A measured ratio from {EVEN[0]:g} to {EVEN[1]:g} has no winner."],
        ("in/out tokens @ requests/s", "requests", "figure", "predicted", "measured", ""),
        found,
    )
    facts = [*profile.conditions.items(), ("largest median residual of the profile", f"{profile.error:.0%}")]
    yield Section("The profile", [], ("", ""), facts)


def document(compared: Sequence[Compared], about: dict[str, Any]) -> dict[str, Any]:
    rows = []
    for each in compared:
        row = {name: each.measured[name] for name in ("point", "requests", "side", "repeat")}
        for figure in TARGETS:
            pair = each.pair(figure)
            row |= {f"{figure}_predicted": pair and pair[0], f"{figure}_measured": pair and pair[1]}
        rows.append(row)
    return {**about, "figures": rows}


def _cell(each: Compared, figure: str) -> str:
    pair, error = each.pair(figure), each.error(figure)
    return "" if pair is None or error is None else f"{ms(pair[0])}, {ms(pair[1])} ({error:+.0%})"


def _verdict(winner: Winner) -> str:
    if not winner.is_clear:
        return "even"
    return "right" if winner.is_right else "**wrong**"
