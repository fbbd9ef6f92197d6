"""A run over time: equal windows from the schedule's zero to the last end of a request.

A value belongs to the window in which the client saw it: a TTFT when the first content arrived, an ITL when its chunk
arrived, an outcome when the request ended; an offered request belongs to the window in which it was scheduled.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loadtest.columns import Columns, Floats
from loadtest.record import RequestRecord
from loadtest.slo import Slo
from loadtest.summary import Distribution, distribution


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
    token_moments, tokens = run.token_arrivals()
    ttft = _split(run["first_content"], run["ttft"], edges)
    itl = _split(run.gap_arrivals(), run.gaps, edges)
    offered = _sums(run["scheduled"], np.ones(len(run)), edges) / width_s
    done = _sums(run["ended"][completed], np.ones(int(completed.sum())), edges) / width_s
    good = _sums(run["ended"][run.good], np.ones(int(run.good.sum())), edges) / width_s
    token_rate = _sums(token_moments, tokens, edges) / width_s
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
            output_tokens_per_s=float(token_rate[i]),
            in_flight=int(in_flight[i]),
        )
        for i in range(number)
    ]


def _split(moments: Floats, values: NDArray[Any], edges: Floats) -> list[NDArray[Any]]:
    """The values of each window."""
    order = np.argsort(moments, kind="stable")  # NaN comes last
    cuts = np.searchsorted(moments[order], edges)
    return [values[order[first:last]] for first, last in pairwise(cuts)]


def _sums(moments: Floats, amounts: Floats, edges: Floats) -> Floats:
    return np.histogram(moments, edges, weights=amounts)[0]
