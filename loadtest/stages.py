"""A rate (or a number of users) over time, as LOADTEST_STAGES writes it: steps and ramps, one after the other.

`60:1,60:1-4,30:4` is a minute at 1, a minute from 1 up to 4, half a minute at 4.
"""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass

_STAGE = re.compile(r"(?P<seconds>[0-9.]+):(?P<first>[0-9.]+)(?:-(?P<last>[0-9.]+))?")


@dataclass(frozen=True, slots=True)
class Stage:
    """From `first` to `last`, straight, over so many seconds."""

    seconds: float
    first: float
    last: float

    @property
    def area(self) -> float:
        return self.seconds * (self.first + self.last) / 2

    def value(self, elapsed: float) -> float:
        if math.isinf(self.seconds):
            return self.first
        return self.first + (self.last - self.first) * elapsed / self.seconds

    def elapsed(self, area: float) -> float:
        """When the area under the line so far is `area`: the root of first*t + slope*t^2/2 = area, in the form that
        subtracts no nearly equal numbers."""
        slope = 0.0 if math.isinf(self.seconds) else (self.last - self.first) / self.seconds
        root = math.sqrt(max(0.0, self.first**2 + 2 * slope * area))
        return 2 * area / (self.first + root) if area else 0.0


@dataclass(frozen=True, slots=True)
class Stages:
    stages: tuple[Stage, ...]

    @property
    def seconds(self) -> float:
        """Infinite for a rate that never changes."""
        return sum(stage.seconds for stage in self.stages)

    @property
    def highest(self) -> float:
        return max(max(stage.first, stage.last) for stage in self.stages)

    def value(self, at: float) -> float:
        """The rate at a time in seconds; the last stage's end goes on for ever."""
        for start, stage in self._with_starts():
            if at < start + stage.seconds:
                return stage.value(at - start)
        return self.stages[-1].last

    def time_of(self, area: float) -> float | None:
        """When the area under the rate reaches `area`; None: never."""
        for start, stage in self._with_starts():
            if area < stage.area:
                return start + stage.elapsed(area)
            area -= stage.area
        return None

    def _with_starts(self) -> Iterator[tuple[float, Stage]]:
        start = 0.0
        for stage in self.stages:
            yield start, stage
            start += stage.seconds


def constant(rate: float) -> Stages:
    return Stages((Stage(math.inf, rate, rate),))


def parse(text: str) -> Stages:
    """Raises: ValueError: with what would be right."""
    stages = []
    for part in text.replace(" ", "").split(","):
        matched = _STAGE.fullmatch(part)
        if matched is None:
            raise ValueError(f"{part!r} is none of the stages seconds:value or seconds:first-last, e.g. 60:1,60:1-4")
        try:
            seconds, first = float(matched["seconds"]), float(matched["first"])
            last = float(matched["last"] or first)
        except ValueError as error:
            raise ValueError(f"{part!r} holds no number: {error}") from error
        if seconds == 0:
            raise ValueError(f"{part!r} lasts no time")
        stages.append(Stage(seconds, first, last))
    if not any(stage.area for stage in stages):
        raise ValueError("never rises above 0")
    return Stages(tuple(stages))
