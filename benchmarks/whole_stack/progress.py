"""A line for each point: how many are done, how long it took, and about how long the rest will take."""

import time
from collections.abc import Callable

DRAIN_S = 8.0  # what a run takes beside its warm-up and its measured seconds, until one has been seen
START_S = 90.0  # of a stack, likewise


class Progress:
    """`points` measurements of `point_s` each and `starts` of the stack are to come. Times are seconds."""

    def __init__(self, points: int, starts: int, point_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._began = clock, clock()
        self._points, self._starts = points, starts
        self._point_s, self._overhead_s, self.start_s = point_s, DRAIN_S, START_S
        self._done = 0

    def remaining_s(self) -> float:
        return (self._points - self._done) * self.next_point_s() + self._starts * self.start_s

    def next_point_s(self) -> float:
        return self._point_s + self._overhead_s

    def started(self, took_s: float) -> None:
        self.start_s, self._starts = took_s, self._starts - 1

    def measured(self, what: str, took_s: float) -> str:
        """The line to print."""
        self._done += 1
        self._overhead_s += (max(0.0, took_s - self._point_s) - self._overhead_s) / self._done
        elapsed = minutes(self._clock() - self._began)
        return f"[{self._done}/{self._points}] {what}; {elapsed} gone, about {minutes(self.remaining_s())} left"


def minutes(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02}"
