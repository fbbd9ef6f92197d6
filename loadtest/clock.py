"""A run's common clock: seconds since the schedule's zero, a wall-clock time that all its processes are told."""

import time


class RunClock:
    """The wall clock is read once, for the zero; every difference after that is the monotonic clock's, which no
    correction of the wall clock moves. Processes of one machine agree within microseconds, those of several as well
    as their wall clocks do (NTP, PTP)."""

    def __init__(self, zero: float) -> None:
        """Args: zero: of `time.time()`."""
        self._zero = time.perf_counter() + (zero - time.time())

    def now(self) -> float:
        return self.at(time.perf_counter())

    def at(self, moment: float) -> float:
        """Args: moment: of `time.perf_counter()`."""
        return moment - self._zero
