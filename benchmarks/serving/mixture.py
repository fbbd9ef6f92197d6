"""A mixture of streams and long prompts as a trace in Mooncake's format, for LOADTEST_WORKLOAD=trace.

Both kinds arrive as Poisson processes of their own, which is one Poisson process whose requests are of either kind by
chance. No two requests share a block, so that no prefix cache helps.
"""

import itertools
import json
import math
import random
from collections.abc import Iterator

from benchmarks.serving.points import Lengths, Point

TRACE_BLOCK = 512  # tokens of one hash id in Mooncake's traces
ROW_MS = 1000


def trace(point: Point, seconds: float, seed: int) -> str:
    """A JSON object a line, ascending by `timestamp` (ms). Never empty: a run without a request tells nothing."""
    # A block's text depends on its id: two traces of one run must not share any.
    ids = itertools.count(random.Random(f"ids {seed} {point}").randrange(1 << 40))
    rows = [
        {
            "timestamp": round(at_s * ROW_MS),
            "input_length": lengths.input,
            "output_length": lengths.output,
            "hash_ids": list(itertools.islice(ids, math.ceil(lengths.input / TRACE_BLOCK))),
        }
        for at_s, lengths in _arrivals(point, seconds, random.Random(f"arrivals {seed} {point}"))
    ]
    return "".join(json.dumps(row) + "\n" for row in rows)


def _arrivals(point: Point, seconds: float, chance: random.Random) -> Iterator[tuple[float, Lengths]]:
    shape = point.shape
    kinds = [(shape.streams, point.rate * (1 - shape.share))]
    if shape.prompts:
        kinds.append((shape.prompts, point.rate * shape.share))
    found = [(at_s, lengths) for lengths, rate in kinds for at_s in _poisson(rate, seconds, chance)]
    yield from sorted(found, key=lambda arrival: arrival[0]) or [(0.0, shape.streams)]


def _poisson(rate: float, seconds: float, chance: random.Random) -> Iterator[float]:
    at_s = chance.expovariate(rate)
    while at_s < seconds:
        yield at_s
        at_s += chance.expovariate(rate)
