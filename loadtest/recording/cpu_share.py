"""How much of a core this process needed while it was under load: whether figures may be the load generator's own.

A mean over the whole run would hide it: a run waits up to LOADTEST_DRAIN_S for its last answers, nearly idle, and one
stage may need a whole core where the others need little. So it is that of the busiest five seconds; Locust's monitor
looks as often, but the first value that psutil gives it is always 0.
"""

import time
from collections.abc import Callable

import gevent

WINDOW_S = 5.0


class CpuShare:
    """From `begin` to `end`; may begin again. Args: cpu_s, clock: CPU seconds used and seconds gone, since any time."""

    def __init__(
        self,
        window_s: float = WINDOW_S,
        cpu_s: Callable[[], float] = time.process_time,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._window_s, self._cpu_s, self._clock = window_s, cpu_s, clock
        self._busiest: float | None = None
        self._watching: gevent.Greenlet | None = None
        self._open_window()

    @property
    def busiest(self) -> float:
        """Of one core, in the busiest window; before the first has passed, since the beginning."""
        return round(self._share() if self._busiest is None else self._busiest, 3)

    def begin(self, ahead_s: float = 0.0) -> None:
        """Args: ahead_s: seconds from now that do not count, unless the end comes before theirs."""
        self.end()
        self._busiest = None
        self._open_window()
        self._watching = gevent.spawn(self._watch, ahead_s)

    def end(self) -> None:
        """What this process does later, like writing its report, does not count."""
        if self._watching is not None:
            self._watching.kill(block=False)
            self._watching = None
            self._busiest = self.busiest

    def _watch(self, ahead_s: float) -> None:
        gevent.sleep(max(0.0, ahead_s))
        while True:
            self._open_window()
            gevent.sleep(self._window_s)
            self._busiest = max(self._busiest or 0.0, self._share())

    def _open_window(self) -> None:
        self._cpu_before_s, self._opened = self._cpu_s(), self._clock()

    def _share(self) -> float:
        return (self._cpu_s() - self._cpu_before_s) / max(self._clock() - self._opened, 1e-9)
