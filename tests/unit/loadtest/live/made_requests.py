"""Requests as a run would have recorded them, made up from a seed."""

import random

from loadtest.figures.record import RequestRecord


def completed(index: int, scheduled: float, ttft: float = 0.1, itl: tuple[float, ...] = ()) -> RequestRecord:
    """Sent when it was scheduled; an answer of a token more than it has gaps."""
    finished = scheduled + ttft + sum(itl)
    return RequestRecord(
        index=index,
        outcome="completed",
        scheduled=scheduled,
        started=scheduled,
        first_content=scheduled + ttft,
        itl=itl,
        finished=finished,
        ended=finished,
        output_tokens=1 + len(itl),
    )


def poisson(count: int, rate: float, gaps: int = 10, seed: int = 0) -> list[RequestRecord]:
    """In the order in which they ended."""
    chance = random.Random(seed)
    at, requests = 0.0, []
    for index in range(count):
        at += chance.expovariate(rate)
        ttft = chance.lognormvariate(-2, 0.5)
        requests.append(completed(index, at, ttft, tuple(chance.lognormvariate(-4, 0.5) for _ in range(gaps))))
    return sorted(requests, key=lambda request: request.ended)
