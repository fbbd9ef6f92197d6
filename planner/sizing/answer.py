"""Which split to run, how much it gains over as many aggregated servers, and what would change that.

Splits are compared by the largest rate at which they keep the objective. Within TOLERANCE they are even there; then
the rate that was asked about decides, by the steadiness of the answers and the time to the first token, as the page of
`make bench` does. Whatever is even, aggregated servers are simpler.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from itertools import pairwise
from typing import Literal

from loadtest.figures.summary import Summary
from planner.sizing.capacity import Case
from planner.sizing.splits import Split, splits

TOLERANCE = 0.1
COARSE = 0.05  # of the rates where something is changed
Axis = Literal["prompts", "answers", "bandwidth"]
FACTORS: dict[Axis, tuple[float, ...]] = {
    "prompts": (0.25, 0.5, 2.0, 4.0),
    "answers": (0.25, 0.5, 2.0, 4.0),
    "bandwidth": (0.01, 0.1),
}
Progress = Callable[[str], None]


class Stand(Enum):
    FOR = "disaggregate"
    AGAINST = "do not disaggregate"
    EXCHANGE = "an exchange"
    EVEN = "even"
    NEITHER = "neither keeps the objective"


@dataclass(frozen=True)
class Row:
    """Of one split: its figures at the rate that was asked about, and its largest rate, requests a second."""

    split: Split
    asked: Summary
    largest_per_s: float


@dataclass(frozen=True)
class Change:
    """What the best pairs and as many aggregated servers bear where something is `factor` times what it is."""

    axis: Axis
    factor: float
    split: Split
    pairs_per_s: float
    aggregated_per_s: float

    @property
    def gain(self) -> float | None:
        return _gain(self.pairs_per_s, self.aggregated_per_s)


@dataclass(frozen=True)
class Answer:
    """rows: aggregated first. gain_at_worst: where the profile's error is the pairs' loss and the others' gain."""

    rate: float
    rows: Sequence[Row]
    changes: Sequence[Change] = ()
    gain_at_worst: float | None = None

    @property
    def aggregated(self) -> Row:
        return self.rows[0]

    @property
    def pairs(self) -> Row | None:
        """The best split into producers and consumers; None: there is only one instance."""
        return max(self.rows[1:], key=_merit, default=None)

    @property
    def gain(self) -> float | None:
        """Largest rate of the best pairs, divided by that of aggregated servers; None: neither has one."""
        return _gain(self.pairs.largest_per_s, self.aggregated.largest_per_s) if self.pairs else None

    @property
    def stand(self) -> Stand:
        if self.pairs is None:
            return Stand.AGAINST if self.aggregated.largest_per_s else Stand.NEITHER
        if self.gain is None:
            return Stand.NEITHER
        if self.gain > 1 + TOLERANCE:
            return Stand.FOR
        if self.gain < 1 / (1 + TOLERANCE):
            return Stand.AGAINST
        return _stand_at(self.pairs.asked, self.aggregated.asked)

    @property
    def chosen(self) -> Row:
        return self.pairs if self.pairs is not None and self.stand is Stand.FOR else self.aggregated

    @property
    def is_sure(self) -> bool | None:
        """Whether the profile's error could not turn the answer round; None: it was not asked."""
        if self.gain is None or self.gain_at_worst is None:
            return None
        return (self.gain_at_worst > 1) == (self.gain > 1)

    def break_even(self, axis: Axis) -> float | None:
        """The factor nearest to 1 at which both bear the same, between two simulated ones; None: there is none.

        In the middle where one of them bears nothing at all at the next factor.
        """
        points = [(1.0, self.gain), *((each.factor, each.gain) for each in self.changes if each.axis == axis)]
        known = sorted((math.log(at), math.log(gain) if gain else -math.inf) for at, gain in points if gain is not None)
        crossings = [
            at + (next_at - at) * (gain / (gain - next_gain) if math.isfinite(gain - next_gain) else 0.5)
            for (at, gain), (next_at, next_gain) in pairwise(known)
            if (gain > 0) != (next_gain > 0)
        ]
        return math.exp(min(crossings, key=abs)) if crossings else None


def answer(case: Case, instances: int, with_changes: bool = True, tell: Progress = lambda line: None) -> Answer:
    """Every split at the workload's own rate and at its largest, and then what changes."""
    rate, rows, guess = case.workload.rate, [], case.workload.rate
    for split in splits(instances):
        found = Row(split, case.at(split, rate), case.largest_rate(split, guess))
        guess = found.largest_per_s or guess
        rows.append(found)
        tell(f"{split}: keeps the objective up to {found.largest_per_s:.3g} requests/s")
    plain = Answer(rate, rows)
    if not with_changes or plain.pairs is None or plain.gain is None:
        return plain
    changes = []
    for change in _changes(replace(case, effort=replace(case.effort, precision=COARSE)), plain):
        tell(
            f"{change.axis} × {change.factor:g}: {change.pairs_per_s:.3g} and {change.aggregated_per_s:.3g} requests/s"
        )
        changes.append(change)
    return Answer(rate, rows, changes, _at_worst(case, plain))


def _changes(case: Case, plain: Answer) -> Iterator[Change]:
    if plain.pairs is None:
        return
    producers, all_of_them = plain.pairs.split.producers, plain.aggregated.split
    near = [row.split for row in plain.rows[1:] if abs(row.split.producers - producers) <= 1]
    aggregated, guess = plain.aggregated.largest_per_s, plain.pairs.largest_per_s
    for axis, factors in FACTORS.items():
        for factor in factors:
            changed = _changed(case, axis, factor)
            pairs = [(changed.largest_rate(split, guess or aggregated), split) for split in near]
            best, split = max(pairs, key=lambda each: each[0])
            # Bandwidth is nothing to servers that send nothing.
            others = aggregated if axis == "bandwidth" else changed.largest_rate(all_of_them, aggregated or guess)
            yield Change(axis, factor, split, best, others)


def _changed(case: Case, axis: Axis, factor: float) -> Case:
    if axis == "bandwidth":
        return replace(case, variant=replace(case.variant, bandwidth=factor))
    workload = case.workload.scaled(prompts=factor) if axis == "prompts" else case.workload.scaled(answers=factor)
    return replace(case, workload=workload)


def _at_worst(case: Case, plain: Answer) -> float | None:
    """The error is against whoever is ahead."""
    if plain.pairs is None or plain.gain is None:
        return None
    error = 1 + case.variant.profile.error
    slower = error if plain.gain > 1 else 1 / error
    pairs, aggregated = (
        replace(case, variant=replace(case.variant, slower=each)).largest_rate(row.split, row.largest_per_s or 1.0)
        for row, each in ((plain.pairs, slower), (plain.aggregated, 1 / slower))
    )
    return _gain(pairs, aggregated)


def _stand_at(pairs: Summary, aggregated: Summary) -> Stand:
    steadiness = _verdict(pairs.itl_s.p99, aggregated.itl_s.p99)
    first_token = _verdict(pairs.ttft_s.p50, aggregated.ttft_s.p50)
    match steadiness, first_token:
        case (-1, 1) | (1, -1):
            return Stand.EXCHANGE
        case (-1, _) | (_, -1):
            return Stand.FOR
        case (1, _) | (_, 1):
            return Stand.AGAINST
    return Stand.EVEN


def _verdict(pairs: float | None, aggregated: float | None) -> int:
    """-1: pairs are lower by more than the tolerance, 1: higher."""
    if not pairs or not aggregated:
        return 0
    ratio = pairs / aggregated
    return -1 if ratio < 1 / (1 + TOLERANCE) else int(ratio > 1 + TOLERANCE)


def _gain(pairs: float, aggregated: float) -> float | None:
    if aggregated:
        return pairs / aggregated
    return math.inf if pairs else None


def _merit(row: Row) -> tuple[float, float]:
    """Of equal rates the split whose first tokens are earlier."""
    return row.largest_per_s, -(row.asked.ttft_s.p50 or 0.0)
