"""What the store is worth within one run: pure functions of its rows.

A ratio is of two sides of one repeat and one size of caches, which had the same requests. Of several repeats there is a
median.
"""

import statistics
from collections.abc import Sequence
from typing import Any

from benchmarks.store.conversations.figures import CONSUMERS, PRODUCERS
from benchmarks.store.conversations.plan import OFF
from benchmarks.tables import Row

AT_MOST = 0.5  # times: the TTFT P50 of a chat's later turns


def beside(rows: Sequence[Row], row: Row, side: str, *keys: str) -> Row | None:
    """The row of another side that has the same of repeat, caches and `keys`."""
    same = ("repeat", "cache_bytes", *keys)
    return next((one for one in rows if one["side"] == side and all(one[key] == row[key] for key in same)), None)


def to_off(rows: Sequence[Row], row: Row, figure: str) -> float | None:
    """A figure of TTFT divided by that of the same requests without the store."""
    off = beside(rows, row, OFF, "requests")
    return quotient(row[figure], off[figure]) if off else None


def median_to_off(rows: Sequence[Row], cache_bytes: int, side: str, kind: str, figure: str) -> float | None:
    """Over the repeats; None: nothing is known."""
    chosen = [row for row in rows if (row["cache_bytes"], row["side"], row["requests"]) == (cache_bytes, side, kind)]
    found = [ratio for row in chosen if (ratio := to_off(rows, row, figure)) is not None]
    return statistics.median(found) if found else None


def prompts(row: Row, role: str) -> int:
    """Tokens of all prompts of a role's instances."""
    return sum(int(row[f"{role}_{name}"]) for name in ("local", "external", "computed"))


def hit_rate(row: Row) -> float | None:
    """Of the producers' tokens: found locally or loaded from the store."""
    return quotient(row[f"{PRODUCERS}_local"] + row[f"{PRODUCERS}_external"], prompts(row, PRODUCERS))


def computed(row: Row) -> int:
    """Prompt tokens of producers and consumers together."""
    return int(row[f"{PRODUCERS}_computed"] + row[f"{CONSUMERS}_computed"])


def quotient(one: Any, other: Any) -> float | None:
    return None if one is None or not other else float(one / other)


def is_whole(row: Row) -> bool:
    """Whether all requests that there were to be were answered."""
    return bool(row["outcomes"].get("completed", 0) == row["wanted"])
