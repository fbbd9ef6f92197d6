"""When each write of a transfer was, and under which chunks of the prefill: for a waterfall and for traces.

Collected where a write returns and a chunk is computed, told once with the word that all has arrived, and only to a
consumer that asked. Neighbours are joined, so that a long prompt's is not longer than MOST_WRITES and MOST_CHUNKS rows:
with them a line of facts stays below PIPE_BUF (telling/transfer_facts.py).
"""

from collections.abc import Callable, Sequence
from typing import TypeVar

import msgspec

from connector.control.messages import ComputedChunk, Timeline, Written

MOST_WRITES = 64
MOST_CHUNKS = 16

Row = TypeVar("Row")


class WriteTimes:
    """Of one share. Times are of `time.monotonic`."""

    def __init__(self) -> None:
        self._writes: list[tuple[int, int, int, float, float, int]] = []

    def add(self, first_layer: int, last_layer: int, size: int, began: float, ended: float) -> None:
        """One write has returned; at most one of a share is in flight."""
        self._writes.append((first_layer, last_layer, size, began, ended, 1))
        if len(self._writes) == 2 * MOST_WRITES:
            self._writes = _halved(self._writes, _joined_times)

    def told(self, prefill_end: float) -> list[Written]:
        return [
            Written(first, last, size, _us(began - prefill_end), _us(ended - began), writes)
            for first, last, size, began, ended, writes in self._writes
        ]


class ChunkTimes:
    """Of one prompt. Times are of `time.monotonic`."""

    def __init__(self) -> None:
        self._chunks: dict[int, tuple[float, float]] = {}  # by the token up to which it computes the prompt

    def begins(self, end: int, at: float) -> None:
        """Once more, after a preemption, it is the later time that counts."""
        self._chunks[end] = (at, at)

    def computed(self, end: int, at: float) -> None:
        """Some of its layers are; the last word counts."""
        began, _ = self._chunks.get(end, (at, at))
        self._chunks[end] = (began, at)

    def told(self, prefill_end: float) -> list[ComputedChunk]:
        """None overlaps: a step is scheduled while the one before is still at work."""
        found, free = [], float("-inf")
        for end, (began, ended) in sorted(self._chunks.items()):
            began, ended = max(began, free), max(ended, free)
            found.append(ComputedChunk(end, _us(began - prefill_end), _us(ended - began)))
            free = ended
        return found


def timeline(writes: WriteTimes, chunks: ChunkTimes, prefill_end: float) -> Timeline:
    return bounded(writes.told(prefill_end), chunks.told(prefill_end))


def bounded(writes: Sequence[Written], chunks: Sequence[ComputedChunk]) -> Timeline:
    """In the order in which they began."""
    rows, steps = sorted(writes, key=lambda write: write.at), list(chunks)
    while len(rows) > MOST_WRITES:
        rows = _halved(rows, _joined_writes)
    while len(steps) > MOST_CHUNKS:
        steps = _halved(steps, lambda one, other: ComputedChunk(other.end, one.at, other.at + other.us - one.at))
    return Timeline(rows, steps)


def text_of(told: Timeline) -> str:
    """`[[[first layer, last layer, bytes, at, us, writes], …], [[end, at, us], …]]`, without a quote: whoever passes it
    on as a string of a JSON object has next to nothing to read."""
    return msgspec.json.encode(told).decode()


def _joined_times(
    one: tuple[int, int, int, float, float, int], other: tuple[int, int, int, float, float, int]
) -> tuple[int, int, int, float, float, int]:
    return (
        min(one[0], other[0]),
        max(one[1], other[1]),
        one[2] + other[2],
        min(one[3], other[3]),
        max(one[4], other[4]),
        one[5] + other[5],
    )


def _joined_writes(one: Written, other: Written) -> Written:
    end = max(one.at + one.us, other.at + other.us)
    return Written(
        min(one.first_layer, other.first_layer),
        max(one.last_layer, other.last_layer),
        one.bytes + other.bytes,
        one.at,
        end - one.at,
        one.writes + other.writes,
    )


def _halved(rows: list[Row], joined: Callable[[Row, Row], Row]) -> list[Row]:
    """Each with its neighbour; an odd last one stays."""
    pairs = [joined(rows[place], rows[place + 1]) for place in range(0, len(rows) - 1, 2)]
    return pairs + rows[len(rows) - len(rows) % 2 :]


def _us(seconds: float) -> int:
    return round(1e6 * seconds)
