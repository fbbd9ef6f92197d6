"""Shows that a long wait goes on: a line that rewrites itself on a terminal, a line now and then in a log."""

import sys
import time
from collections.abc import Callable, Iterable

LOG_EVERY_S = 15.0


class Progress:
    """Elapsed time since its creation, against a limit; both in seconds of `clock`."""

    def __init__(self, limit_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.limit_s = limit_s
        self._clock = clock
        self._started = clock()
        self._last_shown = self._started
        self._rewrites = sys.stdout.isatty()

    @property
    def elapsed_s(self) -> float:
        return self._clock() - self._started

    def is_over(self) -> bool:
        return self.elapsed_s > self.limit_s

    def done(self, what: str) -> None:
        self.clear()
        print(f"{self.elapsed_s:5.0f} s  {what}: ready", flush=True)

    def waiting(self, what: Iterable[str]) -> None:
        now = self._clock()
        line = f"{now - self._started:5.0f} s  waiting for {', '.join(what)}"
        if self._rewrites:
            print(f"\r\033[K{line}", end="", flush=True)
        elif now - self._last_shown >= LOG_EVERY_S:
            self._last_shown = now
            print(line, flush=True)

    def clear(self) -> None:
        """Wipe the line that `waiting` left on a terminal."""
        if self._rewrites:
            print("\r\033[K", end="", flush=True)
