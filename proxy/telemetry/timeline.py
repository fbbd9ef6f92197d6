"""When each write of a transfer was, and each chunk of its prefill, as `connector/telling/timeline.py` has told it.

It comes as text and stays so until somebody looks at it: most is never looked at, and the text takes a tenth of the
memory.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import orjson

MOST_ROWS = 64  # what a connector tells; more is not its
MOST = 1 << 53


class Written(NamedTuple):
    """One write, or `writes` neighbouring ones. In seconds; `at` is after the end of the prefill, mostly negative."""

    first_layer: int
    last_layer: int
    bytes: int
    at: float
    seconds: float
    writes: int


class Chunk(NamedTuple):
    """A step of the prefill, up to token `end` of the prompt. Times as in `Written`."""

    end: int
    at: float
    seconds: float


def timeline_of(transfer: Mapping[str, Any]) -> tuple[list[Written], list[Chunk]]:
    """Empty where the transfer's facts have none, or one that cannot be read: an instance may be another version."""
    told = transfer.get("timeline")
    if not isinstance(told, str):
        return [], []
    try:
        writes, chunks = ([_whole_numbers(row) for row in rows[:MOST_ROWS]] for rows in orjson.loads(told))
        return (
            [Written(first, last, size, at / 1e6, us / 1e6, n) for first, last, size, at, us, n in writes],
            [Chunk(end, at / 1e6, us / 1e6) for end, at, us in chunks],
        )
    except (ValueError, TypeError):
        return [], []


def _whole_numbers(row: list[Any]) -> list[int]:
    """Raises: ValueError: one is none, or more than any clock or size."""
    if not all(isinstance(value, int) and abs(value) < MOST for value in row):
        raise ValueError(row)
    return row
