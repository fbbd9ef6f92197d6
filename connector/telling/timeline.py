"""When each write of a transfer was, and under which chunks of the prefill: for a waterfall and for traces.

Collected where a write returns and a chunk is computed, told once with the word that all has arrived, and only to a
consumer that asked. It goes on as text, which nobody on its way has to read:

    [[[first layer, last layer, bytes, at, us, writes], …], [[end, at, us], …]]

Layers by their numbers on the producer's rank. Times in microseconds: `at` after the end of the prefill, before which
that is negative. A row may be several neighbours, `writes` of them, or the chunks up to token `end`: a long prompt's
has no more than MOST_WRITES and MOST_CHUNKS rows, and with them a line of facts stays below PIPE_BUF
(telling/transfer_facts.py).
"""

from collections.abc import Callable, Sequence

import msgspec

MOST_WRITES = 64
MOST_CHUNKS = 16

Row = list[int]
Timed = tuple[int, int, int, float, float, int]  # a write: layers, bytes, when it began and ended, writes

_decoder = msgspec.json.Decoder(tuple[list[Row], list[Row]])


class WriteTimes:
    """Of one share. Times are of `time.monotonic`."""

    def __init__(self) -> None:
        self._writes: list[Timed] = []

    def add(self, first_layer: int, last_layer: int, size: int, began: float, ended: float) -> None:
        """One write has returned; at most one of a share is in flight."""
        self._writes.append((first_layer, last_layer, size, began, ended, 1))
        if len(self._writes) == 2 * MOST_WRITES:
            self._writes = _halved(self._writes, _joined_times)

    def told(self, prefill_end: float) -> list[Row]:
        return [
            [first, last, size, int(1e6 * (began - prefill_end)), int(1e6 * (ended - began)), writes]
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

    def told(self, prefill_end: float) -> list[Row]:
        """None overlaps: a step is scheduled while the one before is still at work."""
        found, free = [], float("-inf")
        for end, (began, ended) in sorted(self._chunks.items()):
            began, ended = max(began, free), max(ended, free)
            found.append([end, int(1e6 * (began - prefill_end)), int(1e6 * (ended - began))])
            free = ended
        return found


def text_of(writes: WriteTimes, chunks: ChunkTimes, prefill_end: float) -> str:
    return _text(writes.told(prefill_end), chunks.told(prefill_end))


def joined(texts: Sequence[str]) -> str:
    """Of shares, which move at the same time: their ranks compute the same chunks, and each writes its own. Those that
    cannot be read, perhaps of another version, are left out."""
    told = [text for text in texts if text]
    if len(told) < 2:
        return told[0] if told else ""
    writes: list[Row] = []
    chunks: list[Row] = []
    for text in told:
        try:
            more, chunks = _decoder.decode(text)
        except msgspec.DecodeError:
            continue
        writes += (row for row in more if len(row) == 6)
    return _text(sorted(writes, key=lambda row: row[3]), [row for row in chunks if len(row) == 3])


def _text(writes: list[Row], chunks: list[Row]) -> str:
    while len(writes) > MOST_WRITES:
        writes = _halved(writes, _joined_writes)
    while len(chunks) > MOST_CHUNKS:
        chunks = _halved(chunks, lambda one, other: [other[0], one[1], other[1] + other[2] - one[1]])
    return msgspec.json.encode((writes, chunks)).decode()


def _joined_times(one: Timed, other: Timed) -> Timed:
    first, last = min(one[0], other[0]), max(one[1], other[1])
    return first, last, one[2] + other[2], min(one[3], other[3]), max(one[4], other[4]), one[5] + other[5]


def _joined_writes(one: Row, other: Row) -> Row:
    first, last = min(one[0], other[0]), max(one[1], other[1])
    end = max(one[3] + one[4], other[3] + other[4])
    return [first, last, one[2] + other[2], one[3], end - one[3], one[5] + other[5]]


def _halved(rows: list[Timed] | list[Row], joined: Callable[..., object]) -> list:  # type: ignore[type-arg]
    """Each with its neighbour; an odd last one stays."""
    pairs = [joined(rows[place], rows[place + 1]) for place in range(0, len(rows) - 1, 2)]
    return [*pairs, *rows[len(rows) - len(rows) % 2 :]]
