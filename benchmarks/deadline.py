"""The time limit of a run."""

import time

from benchmarks.errors import OutOfTime


class Deadline:
    """`limit_s` seconds from now."""

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s
        self._at = time.monotonic() + limit_s

    def left(self) -> float:
        """Seconds. Raises: OutOfTime: none is left."""
        left = self._at - time.monotonic()
        if left <= 0:
            raise OutOfTime(f"the time limit of {self._limit_s:g} s has passed")
        return left
