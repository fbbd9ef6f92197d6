"""The largest rate at which a split keeps the objective: enough of the requests are good, and no queue grows."""

import math
from dataclasses import dataclass

from loadtest.figures.slo import Slo
from loadtest.figures.summary import Summary
from planner.sizing.figures import figures
from planner.sizing.splits import Split, Variant
from planner.sizing.workload import Workload

MOST_DOUBLINGS = 12


@dataclass(frozen=True)
class Objective:
    """attainment: share of the requests that have to keep the SLO."""

    slo: Slo
    attainment: float = 0.9

    def kept_by(self, summary: Summary) -> bool:
        return summary.saturation is None and (summary.goodput_share or 0.0) >= self.attainment

    def __str__(self) -> str:
        return f"{self.slo} for {self.attainment:.0%} of the requests"


@dataclass(frozen=True)
class Effort:
    """requests: of one simulation, and more where they would come in less than `seconds`. precision: of a rate."""

    requests: int = 1000
    seconds: float = 60.0
    most: int = 20_000
    precision: float = 0.03
    seed: int = 1

    def of(self, rate: float) -> int:
        return min(self.most, max(self.requests, math.ceil(rate * self.seconds)))


@dataclass(frozen=True)
class Case:
    """One question: what is asked of which instances, and how well it has to be answered."""

    workload: Workload
    variant: Variant
    objective: Objective
    effort: Effort = Effort()

    def at(self, split: Split, rate: float) -> Summary:
        arrivals = self.workload.arrivals(rate, self.effort.of(rate), self.effort.seed)
        return figures(arrivals, self.variant.deployment(split), self.objective.slo)

    def largest_rate(self, split: Split, guess: float) -> float:
        """Requests a second, 0 where not even a request now and then is good enough.

        Args: guess: where to begin.
        """

        def kept(rate: float) -> bool:
            return self.objective.kept_by(self.at(split, rate))

        low = high = guess
        if kept(guess):
            for _ in range(MOST_DOUBLINGS):
                high = low * 2
                if not kept(high):
                    break
                low = high
        else:
            for _ in range(MOST_DOUBLINGS):
                low = high / 2
                if kept(low):
                    break
                high = low
            else:
                return 0.0
        while high / low > 1 + self.effort.precision:
            middle = math.sqrt(low * high)
            low, high = (middle, high) if kept(middle) else (low, middle)
        return low
