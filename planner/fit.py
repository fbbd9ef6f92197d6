"""Costs from measurements: a sum of parts, none below nothing, that is as near as can be in proportion.

Every sample counts by its relative error, so that a step of 5 ms is as important as one of 500. What is refused: a
sample of which the repeats do not tell the median, and a fit that is far from its samples.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median, quantiles

import numpy as np
from numpy.typing import NDArray

from planner.profile import Residual

FEWEST_REPEATS = 3
_MIDDLE_HALF = 1.349  # standard deviations that it spans, of a normal distribution


@dataclass(frozen=True)
class Bounds:
    """So uncertain may a sample's median be, as `uncertainty` says, and so large the median residual of a kind."""

    uncertain: float
    residual: float


STRICT = Bounds(uncertain=0.06, residual=0.15)  # of five repeats the middle half then spans 14 %


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


def uncertainty(repeats: Sequence[float]) -> float:
    """Standard error of their median, of the median: sqrt(pi / 2n) standard deviations, as of a normal distribution.

    It falls with the number of repeats, so that what differs by its nature can be measured too.
    """
    first, middle, third = quantiles(repeats, n=4, method="inclusive")
    if not middle > 0:
        return math.inf
    return math.sqrt(math.pi / 2 / len(repeats)) * (third - first) / _MIDDLE_HALF / middle


@dataclass(frozen=True)
class Fit:
    """costs: seconds by part. residuals: by kind."""

    costs: dict[str, float]
    residuals: dict[str, Residual]


def fit(
    samples: Sequence[Sample], parts: Sequence[str], known: Mapping[str, float] | None = None, bounds: Bounds = STRICT
) -> Fit:
    """Args: parts: whose costs are looked for; known: those of the others. Raises: NoFit."""
    refuse_noise(samples, bounds.uncertain)
    costs = least_errors(samples, parts, known or {})
    return Fit(costs, judged(samples, [summed(sample, costs) for sample in samples], bounds))


def least_errors(samples: Sequence[Sample], parts: Sequence[str], known: Mapping[str, float]) -> dict[str, float]:
    """The known costs and those of the parts. Raises: NoFit: there are fewer samples than parts."""
    if len(samples) < len(parts):
        raise NoFit(f"{len(samples)} measurements for {len(parts)} costs: expected at least as many")
    matrix = np.array([[sample.parts.get(part, 0.0) / sample.median for part in parts] for sample in samples])
    wanted = np.array([1 - summed(sample, known) / sample.median for sample in samples])
    return {**known, **dict(zip(parts, _not_negative(matrix, wanted), strict=True))}


def summed(sample: Sample, costs: Mapping[str, float]) -> float:
    """Seconds of its parts."""
    return sum(costs.get(part, 0.0) * many for part, many in sample.parts.items())


def judged(samples: Sequence[Sample], fitted_s: Sequence[float], bounds: Bounds) -> dict[str, Residual]:
    """Of each kind. Raises: NoFit: the median of one is too large."""
    residuals = _residuals(samples, fitted_s)
    poor = [
        f"{kind}: the fit is {each.median:.0%} from what was measured (median), expected at most {bounds.residual:.0%}"
        for kind, each in residuals.items()
        if each.median > bounds.residual
    ]
    if poor:
        raise NoFit("\n".join(poor))
    return residuals


def refuse_noise(samples: Sequence[Sample], uncertain: float) -> None:
    """Raises: NoFit: the median of one of them is more uncertain than that."""
    if bad := [line for sample in samples if (line := _noisy(sample, uncertain))]:
        raise NoFit("\n".join(bad))


def _noisy(sample: Sample, most: float) -> str | None:
    if len(sample.seconds) < FEWEST_REPEATS:
        return f"{sample.what}: measured {len(sample.seconds)} times, expected at least {FEWEST_REPEATS}"
    if not sample.median > 0:
        return f"{sample.what}: took {sample.median:g} s, which cannot be"
    if (uncertain := uncertainty(sample.seconds)) > most:
        return (
            f"{sample.what}: the median of {len(sample.seconds)} repeats is uncertain by {uncertain:.0%}, "
            f"expected at most {most:.0%}; is something else running?"
        )
    return None


def _residuals(samples: Sequence[Sample], fitted_s: Sequence[float]) -> dict[str, Residual]:
    by_kind: dict[str, list[float]] = {}
    for sample, fitted in zip(samples, fitted_s, strict=True):
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
