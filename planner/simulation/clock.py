"""Simulated time, in seconds: what is due next happens next, and what is due at once in the order of its asking."""

import heapq
from collections.abc import Callable
from itertools import count


class Clock:
    def __init__(self) -> None:
        self.now = 0.0
        self._numbers = count()
        self._events: list[tuple[float, int, Callable[[], None]]] = []

    def at(self, when: float, happen: Callable[[], None]) -> None:
        """What should have been before now happens now."""
        heapq.heappush(self._events, (when, next(self._numbers), happen))

    def after(self, seconds: float, happen: Callable[[], None]) -> None:
        """Without any delay at once, before this returns."""
        if seconds > 0:
            self.at(self.now + seconds, happen)
        else:
            happen()

    def run(self) -> None:
        while self._events:
            when, _, happen = heapq.heappop(self._events)
            self.now = max(self.now, when)
            happen()
