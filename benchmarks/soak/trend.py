"""Whether a series of memory samples is flat.

The method is that of the study which found software aging in running systems (Garg, van Moorsel, Vaidyanathan, Trivedi:
A methodology for detection and estimation of software aging, ISSRE 1998): the Mann-Kendall test says whether there is a
trend at all, Sen's slope (the median of the slopes of all pairs, Sen 1968) says how large it is. Neither minds steps
and spikes, as garbage collectors and allocators make them.

A series is flat unless its trend is upwards beyond doubt AND carries it by more than `allowance` over the window. The
allowance is one for the whole window, so a longer run finds a smaller leak: 4 MiB in 8 minutes are 30 MiB an hour, in 4
hours they are 1.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

ALLOWED_SHARE = 0.02  # of the median
ALLOWED_LEAST = 4 << 20  # bytes; an allocator takes memory from the kernel in pieces of about 1 MiB
SURE_Z = 3.09  # one-sided 0.1 %: ten series a run, and neighbouring samples are not independent
MOST_POINTS = 300  # pairs grow with the square; a longer series is thinned to medians of neighbours
FEWEST_POINTS = 10  # below it the normal approximation of the test does not hold (Kendall 1975)

Point = tuple[float, float]  # seconds, bytes


@dataclass(frozen=True)
class Trend:
    """grown: bytes over the window by Sen's slope; z: of the Mann-Kendall test; expected: growth that is no leak."""

    median: float
    seconds: float
    grown: float
    z: float
    expected: float = 0.0

    @property
    def allowance(self) -> float:
        return self.expected + max(ALLOWED_SHARE * self.median, ALLOWED_LEAST)

    @property
    def per_hour(self) -> float:
        return self.grown / self.seconds * 3600

    @property
    def has_trend(self) -> bool:
        """Upwards, beyond doubt."""
        return self.z >= SURE_Z

    @property
    def is_flat(self) -> bool:
        return not self.has_trend or self.grown <= self.allowance


def trend(points: Sequence[Point], expected: float = 0.0) -> Trend | None:
    """None: too few points to tell. Args: expected: bytes by which a bounded cache fills over the window."""
    if len(points) < FEWEST_POINTS:
        return None
    points = _thinned(points)
    pairs = list(combinations(points, 2))
    slope = statistics.median((later[1] - sooner[1]) / (later[0] - sooner[0]) for sooner, later in pairs)
    seconds = points[-1][0] - points[0][0]
    return Trend(
        median=statistics.median(value for _, value in points),
        seconds=seconds,
        grown=slope * seconds,
        z=_mann_kendall([value for _, value in points]),
        expected=expected,
    )


def _mann_kendall(values: Sequence[float]) -> float:
    """The normal score of the trend, ties and continuity taken into account (Gilbert 1987, equations 16.2 to 16.5)."""
    score = sum((later > sooner) - (later < sooner) for sooner, later in combinations(values, 2))
    number = len(values)
    ties = [values.count(value) for value in set(values)]
    variance = (number * (number - 1) * (2 * number + 5) - sum(tie * (tie - 1) * (2 * tie + 5) for tie in ties)) / 18
    if not variance or not score:
        return 0.0
    return (score - math.copysign(1, score)) / math.sqrt(variance)


def _thinned(points: Sequence[Point]) -> Sequence[Point]:
    width = math.ceil(len(points) / MOST_POINTS)
    if width == 1:
        return points
    groups = [points[start : start + width] for start in range(0, len(points), width)]
    return [(statistics.median(at for at, _ in group), statistics.median(b for _, b in group)) for group in groups]
