"""Stops asking a store that does not answer, and tries again later with one question."""

import time
from collections.abc import Callable


class Breaker:
    """Opens after so many failures in a row; every `cooldown_s` from then on one question is a trial."""

    def __init__(self, failures: int, cooldown_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit = failures
        self._cooldown_s = cooldown_s
        self._clock = clock
        self._failures = 0
        self._next_trial = 0.0

    @property
    def is_open(self) -> bool:
        return self._failures >= self._limit

    def allows(self) -> bool:
        """Whether to ask now. While it is open the caller who hears yes is the trial, and the others wait for it."""
        if not self.is_open:
            return True
        if self._clock() < self._next_trial:
            return False
        self._next_trial = self._clock() + self._cooldown_s
        return True

    def succeeded(self) -> None:
        self._failures = 0

    def failed(self) -> None:
        self._failures += 1
        self._next_trial = self._clock() + self._cooldown_s
