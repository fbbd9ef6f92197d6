"""Shows that a long wait goes on: a line that rewrites itself on a terminal, a line now and then in a log."""

import sys
import time
from collections.abc import Iterable

LOG_EVERY_S = 15.0


class Progress:
    """Elapsed time since its creation, against a limit in seconds."""

    def __init__(self, limit_s: float) -> None:
        self.limit_s = limit_s
        self._started = time.monotonic()
        self._last_shown = self._started
        self._rewrites = sys.stdout.isatty()

    @property
    def elapsed_s(self) -> float:
        return time.monotonic() - self._started

    def is_over(self) -> bool:
        return self.elapsed_s > self.limit_s

    def done(self, what: str) -> None:
        self.clear()
        print(f"{self.elapsed_s:5.0f} s  {what}: ready", flush=True)

    def waiting(self, what: Iterable[str]) -> None:
        line = f"{self.elapsed_s:5.0f} s  waiting for {', '.join(what)}"
        if self._rewrites:
            print(f"\r\033[K{line}", end="", flush=True)
        elif time.monotonic() - self._last_shown >= LOG_EVERY_S:
            self._last_shown = time.monotonic()
            print(line, flush=True)

    def clear(self) -> None:
        """Wipe the line that `waiting` left on a terminal."""
        if self._rewrites:
            print("\r\033[K", end="", flush=True)
