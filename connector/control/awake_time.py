"""Time that does not pass while this process is stopped (SIGSTOP, a frozen container, a paused machine).

Whoever was stopped has not waited: the words of others that came meanwhile are still to be read, and a deadline on the
host's clock would be over before the first of them.
"""

import time

# The longest pause between two ticks that counts as time: a control thread that is late on a busy machine, or stopped.
LONGEST_PAUSE_S = 2.0


class AwakeTime:
    """One thread calls `tick` several times a second; any thread may call `now`."""

    def __init__(self) -> None:
        self._tick = time.monotonic(), 0.0  # when it was, and the awake time then: replaced together

    def now(self) -> float:
        """Seconds since the beginning, without those of standstills. It never goes back."""
        ticked, awake = self._tick
        return awake + min(time.monotonic() - ticked, LONGEST_PAUSE_S)

    def tick(self) -> None:
        ticked, awake = self._tick
        now = time.monotonic()
        self._tick = now, awake + min(now - ticked, LONGEST_PAUSE_S)
