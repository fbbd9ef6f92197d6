"""A run over time: equal windows from the schedule's zero to the last end of a request.

A value belongs to the window in which the client saw it: a TTFT when the first content arrived, an ITL when its chunk
arrived, an outcome when the request ended; an offered request belongs to the window in which it was scheduled.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loadtest.figures.columns import Columns, Floats
from loadtest.figures.record import RequestRecord
from loadtest.figures.slo import Slo
from loadtest.figures.summary import Distribution, distribution


@dataclass(frozen=True, slots=True)
class Window:
    """in_flight: requests that had been sent and had not ended, at the window's end."""

    start_s: float
    width_s: float
    ttft_s: Distribution
    itl_s: Distribution
    offered_per_s: float
    requests_per_s: float
    goodput_per_s: float
    output_tokens_per_s: float
    in_flight: int


def windows(records: Iterable[RequestRecord] | Columns, slo: Slo, width_s: float) -> list[Window]:
    """`slo` decides what is good; columns have decided already."""
    run = records if isinstance(records, Columns) else Columns.of(records, slo)
    if not len(run):
        return []
    number = int(run["ended"].max() / width_s) + 1
    edges = np.asarray(np.arange(number + 1) * width_s, dtype=np.float64)
    completed = run.outcome("completed")
    tokens = sum((_sums(moments, held, edges) for moments, held in run.token_arrivals()), np.zeros(number))
    ttft = _split(_numbers(run["first_content"], width_s), run["ttft"], number)
    itl = _split(np.concatenate([_numbers(moments, width_s) for moments in run.gap_arrivals()]), run.gaps, number)
    offered = _sums(run["scheduled"], np.ones(len(run)), edges) / width_s
    done = _sums(run["ended"][completed], np.ones(int(completed.sum())), edges) / width_s
    good = _sums(run["ended"][run.good], np.ones(int(run.good.sum())), edges) / width_s
    started = np.searchsorted(np.sort(run["started"]), edges[1:])
    in_flight = started - np.searchsorted(np.sort(run["ended"]), edges[1:])
    return [
        Window(
            start_s=float(edges[i]),
            width_s=width_s,
            ttft_s=distribution(ttft[i]),
            itl_s=distribution(itl[i]),
            offered_per_s=float(offered[i]),
            requests_per_s=float(done[i]),
            goodput_per_s=float(good[i]),
            output_tokens_per_s=float(tokens[i] / width_s),
            in_flight=int(in_flight[i]),
        )
        for i in range(number)
    ]


def _numbers(moments: Floats, width_s: float) -> NDArray[np.int32]:
    """Of the windows in which moments lie; -1: in none."""
    return np.asarray(np.nan_to_num(moments / width_s, nan=-1.0), dtype=np.int32)


def _split(numbers: NDArray[np.int32], values: NDArray[Any], windows: int) -> list[NDArray[Any]]:
    """The values of each window, by a look at all for each: to sort millions would need several times their memory."""
    return [values[numbers == number] for number in range(windows)]


def _sums(moments: Floats, amounts: Floats, edges: Floats) -> Floats:
    return np.histogram(moments, edges, weights=amounts)[0]
