"""When signs are given: never to who has not been silent for long enough, never much later, with one timer for all."""

import asyncio
import heapq
from collections.abc import Callable
from typing import Any, cast

from hypothesis import given
from hypothesis import strategies as st

from proxy.http.signs_of_life import SignsOfLife

SILENCE_S = 20.0
ROUNDING_S = 1e-6
LATEST_S = 1.05 * SILENCE_S + ROUNDING_S
END_S = 200.0


class Clock:
    """A loop's timers, without waiting."""

    def __init__(self) -> None:
        self.now = 0.0
        self.timers: list[tuple[float, int, Callable[[], None]]] = []
        self.set = 0

    def time(self) -> float:
        return self.now

    def call_later(self, seconds: float, callback: Callable[[], None]) -> None:
        self.call_at(self.now + seconds, callback)

    def call_at(self, at: float, callback: Callable[[], None]) -> None:
        self.set += 1
        heapq.heappush(self.timers, (at, self.set, callback))

    def run(self, until: float) -> None:
        while self.timers[0][0] <= until:
            self.now, _, callback = heapq.heappop(self.timers)
            callback()
        self.now = until


class Stream:
    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.silent_since: float | None = None
        self.signs: list[float] = []

    def give_sign(self) -> None:
        assert self.silent_since is not None
        waited = self._clock.now - self.silent_since
        assert SILENCE_S - ROUNDING_S <= waited <= LATEST_S
        self.silent_since = self._clock.now
        self.signs.append(self._clock.now)


@given(st.lists(st.lists(st.floats(0, END_S), max_size=6, unique=True), max_size=20))
def test_each_silence_gets_its_sign_in_time(changes: list[list[float]]) -> None:
    """Each stream is silent, and is not, in turn."""
    clock = Clock()
    streams = [Stream(clock) for _ in changes]
    SignsOfLife(cast(asyncio.AbstractEventLoop, clock), cast(Any, streams), SILENCE_S)
    for at, number in sorted((at, number) for number, times in enumerate(changes) for at in times):
        clock.run(at)
        stream = streams[number]
        if stream.silent_since is None:
            stream.silent_since = at
        else:
            assert at - stream.silent_since <= LATEST_S
            stream.silent_since = None
    clock.run(END_S + SILENCE_S)
    for stream in streams:
        assert stream.silent_since is None or clock.now - stream.silent_since <= LATEST_S
    assert clock.set <= (END_S + SILENCE_S) / (0.05 * SILENCE_S) + 1


def test_without_streams_there_is_next_to_nothing_to_do() -> None:
    clock = Clock()
    SignsOfLife(cast(asyncio.AbstractEventLoop, clock), [], SILENCE_S)
    clock.run(1000.0)
    assert clock.set == 1000.0 / SILENCE_S + 1
