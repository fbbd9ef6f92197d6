"""Costs from measurements: a sum of parts, none below nothing, that is as near as can be in proportion.

Every sample counts by its relative error, so that a step of 5 ms is as important as one of 500. What is refused: a
sample whose own repeats disagree, and a fit that is far from its samples.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median, quantiles

import numpy as np
from numpy.typing import NDArray

from planner.profile import Residual

# The middle half of a sample's repeats may span so much of their median, and a kind's median residual may be so large.
MOST_SPREAD, MOST_RESIDUAL = 0.15, 0.15
FEWEST_REPEATS = 3


class NoFit(Exception):
    """The text has a line for each thing that is wrong."""


@dataclass(frozen=True)
class Sample:
    """Repeats of one measurement, in seconds, and how many there are of each part in it.

    kind: under which its residual is told. parts: by name of the cost.
    """

    kind: str
    what: str
    seconds: Sequence[float]
    parts: dict[str, float]

    @property
    def median(self) -> float:
        return median(self.seconds)

    @property
    def spread(self) -> float:
        """The middle half of its repeats, of their median."""
        first, _, third = quantiles(self.seconds, n=4, method="inclusive")
        return (third - first) / self.median


@dataclass(frozen=True)
class Fit:
    """costs: seconds by part. residuals: by kind."""

    costs: dict[str, float]
    residuals: dict[str, Residual]


def fit(samples: Sequence[Sample], parts: Sequence[str]) -> Fit:
    """Raises: NoFit."""
    if bad := [line for sample in samples if (line := _noisy(sample))]:
        raise NoFit("\n".join(bad))
    if len(samples) < len(parts):
        raise NoFit(f"{len(samples)} measurements for {len(parts)} costs: expected at least as many")
    matrix = np.array([[sample.parts.get(part, 0.0) / sample.median for part in parts] for sample in samples])
    costs = dict(zip(parts, _not_negative(matrix, np.ones(len(samples))), strict=True))
    residuals = _residuals(samples, costs)
    poor = [
        f"{kind}: the fit is {each.median:.0%} from what was measured (median), expected at most {MOST_RESIDUAL:.0%}"
        for kind, each in residuals.items()
        if each.median > MOST_RESIDUAL
    ]
    if poor:
        raise NoFit("\n".join(poor))
    return Fit(costs, residuals)


def _noisy(sample: Sample) -> str | None:
    if len(sample.seconds) < FEWEST_REPEATS:
        return f"{sample.what}: measured {len(sample.seconds)} times, expected at least {FEWEST_REPEATS}"
    if not sample.median > 0:
        return f"{sample.what}: took {sample.median:g} s, which cannot be"
    if sample.spread > MOST_SPREAD:
        return (
            f"{sample.what}: half of the repeats are {sample.spread:.0%} of their median apart, "
            f"expected at most {MOST_SPREAD:.0%}; is something else running?"
        )
    return None


def _residuals(samples: Sequence[Sample], costs: dict[str, float]) -> dict[str, Residual]:
    by_kind: dict[str, list[float]] = {}
    for sample in samples:
        fitted = sum(costs[part] * many for part, many in sample.parts.items())
        by_kind.setdefault(sample.kind, []).append(abs(fitted - sample.median) / sample.median)
    return {
        kind: Residual(samples=len(errors), median=float(median(errors)), worst=float(max(errors)))
        for kind, errors in by_kind.items()
    }


def _not_negative(matrix: NDArray[np.float64], wanted: NDArray[np.float64]) -> list[float]:
    """Least squares; a part that would be negative is nothing, the most negative first."""
    used = list(range(matrix.shape[1]))
    found = np.zeros(matrix.shape[1])
    while used:
        scale = np.linalg.norm(matrix[:, used], axis=0)
        scale[scale == 0] = 1.0
        solved = np.linalg.lstsq(matrix[:, used] / scale, wanted, rcond=None)[0] / scale
        if (solved >= 0).all():
            found[used] = solved
            break
        del used[int(np.argmin(solved * scale))]
    return [float(value) for value in found]
