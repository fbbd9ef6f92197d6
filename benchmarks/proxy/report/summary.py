"""Figures of a group of rows, one row a round."""

import statistics
from collections.abc import Sequence

from benchmarks.tables import Row

DIRECT = "direct"


def median(rows: Sequence[Row], value: str) -> float | None:
    """Over rounds; None when no round has it."""
    values = [row[value] for row in rows if row[value] is not None]
    return statistics.median(values) if values else None


def added(rows: Sequence[Row], direct: Sequence[Row], value: str) -> float | None:
    """The median over rounds of what a proxy adds to the direct way of the same round."""
    base = {row["round"]: row[value] for row in direct if row[value] is not None}
    differences = [row[value] - base[row["round"]] for row in rows if row[value] is not None and row["round"] in base]
    return statistics.median(differences) if differences else None


def times(rows: Sequence[Row], others: Sequence[Row], value: str) -> float | None:
    """The median over rounds of how many times the value of the same round of `others` it is."""
    base = {row["round"]: row[value] for row in others if row[value]}
    ratios = [row[value] / base[row["round"]] for row in rows if row[value] is not None and row["round"] in base]
    return statistics.median(ratios) if ratios else None


def cpu_s_per_1000(rows: Sequence[Row]) -> float | None:
    requests = sum(row["requests"] for row in rows)
    return 1000 * sum(row["cpu_s"] for row in rows) / requests if requests else None


def events_per_cpu_s(rows: Sequence[Row]) -> float | None:
    cpu_s = sum(row["cpu_s"] for row in rows)
    return float(sum(row["events"] for row in rows) / cpu_s) if cpu_s else None
