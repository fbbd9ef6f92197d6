"""Rate matching on live figures: how many producers and how many consumers the work of the last minutes is worth.

Work is counted in instances. Of producers it is how many were busy in the mean, and as much more as what waits is of
what they computed. Of consumers it is how full they were: their KV cache, or the time between tokens as a part of what
is promised, whichever is more, times their number. A side that is short stays so in every part of the window, and a
side with something to spare in every part as well, so that one burst, or one pause, changes nothing. Between FULL and
TARGET nothing is asked for, so that what was asked for is not taken back once it is done.

docs/scaling.md has the arithmetic on one page.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

PART_S = 30
PARTS = 4  # the window: two minutes
FULL = 0.85  # beyond, one more is asked for
TARGET = 0.7  # as many as are used so much: a queue is about as long as what is computed
LITTLE = 0.35  # where neither side is used so much in the mean, nothing is said

Says = Literal["wrong", "few", "many", "right", "little", "unknown"]


@dataclass(frozen=True)
class Part:
    """What went on at one model's pairs for PART_S; of all of its instances together.

    busy: producers with a prompt in hand, in the mean. computed, waiting: tokens of prompts, in it and at its end.
    streams: that consumers make tokens for, in the mean. itl_s: in the mean of those that ended, None without one.
    cache_usage: from 0 to 1, the consumers' mean, None where none has said. consumers: how many there were.
    """

    busy: float
    computed: int
    waiting: int
    streams: float
    itl_s: float | None
    cache_usage: float | None
    consumers: int

    @property
    def producers_worth(self) -> float:
        """Where nothing was computed, one prompt may take longer than the part: what waits is then no measure."""
        return self.busy * (1 + self.waiting / self.computed) if self.computed else self.busy

    def consumers_worth(self, tpot_s: float) -> float:
        """Args: tpot_s: what is promised between two tokens."""
        return self.consumers * max(self.cache_usage or 0.0, (self.itl_s or 0.0) / tpot_s)


@dataclass(frozen=True)
class Side:
    """Producers or consumers. use: their work over their number, the mean of the window; wanted: how many would do."""

    number: int
    use: float
    wanted: int

    @property
    def change(self) -> int:
        return self.wanted - self.number


@dataclass(frozen=True)
class Verdict:
    """says: wrong: one side is short and the other is not; few: both are; many: neither is, and one has to spare;
    right; little: too little load to tell; unknown: not watched for a whole window yet.

    wait_s: of a prompt that came now; None where nothing was computed, as for the others.
    """

    says: Says
    producers: Side
    consumers: Side
    tokens_waiting: int
    wait_s: float | None
    cache_usage: float | None
    itl_s: float | None


def judge(window: Sequence[Part], producers: int, consumers: int, tpot_s: float) -> Verdict:
    """Args: window: the last PARTS, the oldest first; producers, consumers: how many there are now, one at least."""
    prefill = _side(producers, [(part.producers_worth, math.inf) for part in window])
    decode = _side(consumers, [(part.consumers_worth(tpot_s), part.streams) for part in window])
    if not any(part.cache_usage is not None for part in window):  # how full they are nobody knows
        decode = Side(consumers, decode.use, max(decode.wanted, consumers))
    last = window[-1] if window else Part(0.0, 0, 0, 0.0, None, None, consumers)
    return Verdict(
        _says(prefill, decode, whole=len(window) >= PARTS),
        prefill,
        decode,
        last.waiting,
        last.waiting / (last.computed / last.busy / PART_S * producers) if last.computed and last.busy else None,
        last.cache_usage,
        last.itl_s,
    )


def _side(number: int, worths: Sequence[tuple[float, float]]) -> Side:
    """Args: worths: of each part the work in instances, and beyond how many one more would have nothing to do."""
    uses = [worth / number for worth, _ in worths]
    wanted = [max(1, math.ceil(round(min(worth / TARGET, most), 6))) for worth, most in worths]
    if uses and min(uses) > FULL and min(wanted) > number:
        changed = min(wanted)
    else:
        changed = min(max(wanted, default=number), number)
    return Side(number, sum(uses) / len(uses) if uses else 0.0, changed)


def _says(producers: Side, consumers: Side, *, whole: bool) -> Says:
    if not whole:
        return "unknown"
    short = [side.change > 0 for side in (producers, consumers)]
    if all(short):
        return "few"
    if any(short):
        return "wrong"
    if max(producers.use, consumers.use) < LITTLE:
        return "little"
    return "many" if producers.change < 0 or consumers.change < 0 else "right"
