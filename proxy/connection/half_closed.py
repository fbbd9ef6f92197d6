"""Whether a client that sends no more has left, or waits for its answer: both look the same until they are written to.

Who has closed its socket resets the connection when something comes, and the write after that fails. What lies
between, like a tunnel or a container engine's forwarder, may pass the end on as it is and swallow a first write: hence
the pauses.
"""

import asyncio
from collections.abc import Callable

FIRST_PAUSE_S = 0.005  # by then a reset has come from the same host
GROWTH = 4


class Probes:
    """Begins at once. probe: writes something that changes nothing."""

    def __init__(self, loop: asyncio.AbstractEventLoop, probe: Callable[[], None]) -> None:
        self._loop = loop
        self._probe = probe
        self._next(FIRST_PAUSE_S)

    def stop(self) -> None:
        self._timer.cancel()

    def _next(self, pause_s: float) -> None:
        self._timer = self._loop.call_later(pause_s, self._next, GROWTH * pause_s)
        self._probe()
