"""Latencies counted in logarithmic buckets: rows of them can be added, and a percentile of a row is within 1 % of it.

The sketch of Masson, Rim and Lee, DDSketch (VLDB 2019), section 2, with a fixed range.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]

_SHORTEST_S, _LONGEST_S = 1e-5, 3600.0  # what is outside counts as one of these
_GROWTH = 1.02  # from a bucket to the next; half of that is the largest error
_BUCKETS = math.ceil(math.log(_LONGEST_S / _SHORTEST_S, _GROWTH)) + 1
_VALUES = _SHORTEST_S * _GROWTH ** np.arange(_BUCKETS)


def empty(rows: int) -> Counts:
    return np.zeros((rows, _BUCKETS), np.int64)


def bucket_of(seconds: Floats) -> Counts:
    clipped = np.clip(seconds, _SHORTEST_S, _LONGEST_S)
    return np.rint(np.log(clipped / _SHORTEST_S) / math.log(_GROWTH)).astype(np.int64)


def percentiles(rows: Counts, wanted: Sequence[int]) -> dict[int, Floats]:
    """Of each row the least value that so much of the row does not exceed, in seconds; NaN for an empty row."""
    cumulative = rows.cumsum(axis=1)
    count = cumulative[:, -1]
    found = {}
    for percentile in wanted:
        rank = np.maximum(np.ceil(count * percentile / 100), 1)
        position = (cumulative < rank[:, None]).sum(axis=1)
        found[percentile] = np.where(count > 0, _VALUES[np.minimum(position, _BUCKETS - 1)], math.nan)
    return found
