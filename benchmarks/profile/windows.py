"""When tokens of streams came, and which gaps between them count: pure functions of what streams told."""

from collections.abc import Iterator, Sequence
from itertools import accumulate, pairwise
from statistics import median

from benchmarks.connector.client import Stream


def token_times(stream: Stream) -> list[float]:
    return list(accumulate(stream.itl_s, initial=stream.started + stream.ttft_s))


def gaps_while_all_run(streams: Sequence[Stream]) -> list[float]:
    """Those that lie wholly between the last first token and the first last one."""
    times = [token_times(stream) for stream in streams]
    since, until = max(each[0] for each in times), min(each[-1] for each in times)
    return [gap for each in times for gap in _within(each, since, until)]


def longest_gap(stream: Stream, since: float, until: float) -> float:
    """Of those that have a moment of this span in them; 0: there is none."""
    return max(_touching(stream, since, until), default=0.0)


def shared_step(stream: Stream, since: float, until: float) -> float:
    """The usual gap, and all by which those that have a moment of this span in them are longer; 0: there is none.

    Where vLLM schedules a step ahead it passes a step's tokens on when the next one is launched, which takes as long
    as several steps where that has a prompt: what it takes longer is in two gaps then.
    """
    gaps = list(_touching(stream, since, until))
    usual = median(stream.itl_s) if gaps else 0.0
    return usual + sum(gap - usual for gap in gaps)


def _touching(stream: Stream, since: float, until: float) -> Iterator[float]:
    for earlier, later in pairwise(token_times(stream)):
        if later > since and earlier < until:
            yield later - earlier


def _within(times: Sequence[float], since: float, until: float) -> Iterator[float]:
    for earlier, later in pairwise(times):
        if earlier >= since and later <= until:
            yield later - earlier
