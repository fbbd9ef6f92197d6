"""Signs of life in streams that have nothing to say: what stands between client and proxy ends a silent connection,
load balancers often after a minute.
"""

import asyncio
from collections.abc import Collection
from typing import Protocol

# How often all streams are looked through at most, of the silence and in seconds: a sign may be so much late.
_COARSENESS = 0.05
_COARSENESS_S = 0.01


class Silent(Protocol):
    @property
    def silent_since(self) -> float | None:
        """In the loop's time: since when its client has been waiting without a byte; None while no client does."""

    def give_sign(self) -> None: ...


class SignsOfLife:
    """One timer for all: who begins to wait between two looks is not due before the second."""

    def __init__(self, loop: asyncio.AbstractEventLoop, waiting: Collection[Silent], silence_s: float) -> None:
        """Args: waiting: looked through anew each time; silence_s: how long none may be silent, 0 for ever."""
        self._loop = loop
        self._waiting = waiting
        self._silence_s = silence_s
        self._pause_s = max(_COARSENESS * silence_s, _COARSENESS_S)
        self._timer = loop.call_later(silence_s, self._look) if silence_s else None

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _look(self) -> None:
        now = self._loop.time()
        due = [(since + self._silence_s, each) for each in self._waiting if (since := each.silent_since) is not None]
        next_look = min((at for at, _ in due if at > now), default=now + self._silence_s)
        self._timer = self._loop.call_at(max(next_look, now + self._pause_s), self._look)
        for at, each in due:
            if at <= now:
                each.give_sign()
