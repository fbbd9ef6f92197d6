"""Numbers from the last engine step to the next, and how those of several ranks and steps become one.

Rows are `[metric, label value, ..., number]`, by kind: `counted` and `observed` ones, and `gauges`.
"""

import threading
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

Rows = dict[str, list[Any]]


class Measured:
    """Called from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counted: Counter[tuple[str, ...]] = Counter()  # by metric and label values
        self._observed: list[list[str | float]] = []
        self._gauges: dict[tuple[str, ...], float] = {}
        self._told: dict[tuple[str, ...], float] = {}  # the gauges as they were last taken

    def take(self) -> Rows | None:
        """Everything since the last call, as plain data. None when there is nothing."""
        with self._lock:
            if not (self._counted or self._observed or self._gauges):
                return None
            data: Rows = {
                "counted": [[*key, number] for key, number in self._counted.items()],
                "observed": self._observed,
                "gauges": [[*key, number] for key, number in self._gauges.items()],
            }
            self._told |= self._gauges
            self._counted, self._observed, self._gauges = Counter(), [], {}
            return data

    def _count(self, *rows: tuple[Any, ...]) -> None:
        with self._lock:
            for *key, number in rows:
                self._counted[tuple(key)] += number

    def _observe(self, *rows: list[str | float]) -> None:
        with self._lock:
            self._observed += rows

    def _set(self, *row: Any) -> None:
        """Every step asks; only a change goes to the API server."""
        *key, number = row
        gauge = tuple(key)
        with self._lock:
            if self._told.get(gauge) == number:
                self._gauges.pop(gauge, None)
            else:
                self._gauges[gauge] = number


def joined(one: Mapping[str, list[Any]], other: Mapping[str, list[Any]]) -> Rows:
    """Of a gauge only the later row is left: there is one for every step.

    In new lists, because vLLM's loggers each accumulate what they were handed, and that is the same object.
    """
    rows = {kind: [*one.get(kind, ()), *other.get(kind, ())] for kind in [*one, *(other.keys() - one.keys())]}
    if "gauges" in rows:
        rows["gauges"] = list({tuple(row[:-1]): row for row in rows["gauges"]}.values())
    return rows


def summed(rows: Iterable[list[Any]]) -> dict[str, int | float]:
    """For vLLM's periodic log line."""
    sums: Counter[str] = Counter()
    for *key, number in rows:
        sums[" ".join(filter(None, key))] += number
    return dict(sums)
