"""What every page of results has: its head, tables, groups of rows, percentiles, failures by their cause."""

import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

Row = dict[str, Any]


def head(document: dict[str, Any], raw_file: str) -> str:
    """`document` is what results.py writes into `raw_file`."""
    facts = {**document["machine"], **document["versions"]}
    lines = [
        f"# {document['title']}",
        "",
        f"Every single value: [{raw_file}]({raw_file}). Started {document['started']}, ended: {document['ended']}.",
        "",
        "```sh",
        document["command"],
        "```",
        "",
        table(("", ""), [(name, str(value)) for name, value in facts.items()]),
    ]
    return "\n".join(lines)


def table(header: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (header, ["---"] * len(header), *lines))


def causes(failures: Counter[str]) -> list[str]:
    """How often what went wrong, as one part of the page; none when nothing did."""
    return ["\n".join(f"- {count} × {cause}" for cause, count in failures.most_common())] if failures else []


def groups(rows: Iterable[Row], *keys: str) -> dict[tuple[Any, ...], list[Row]]:
    """Rows by their values of `keys`, in the order of arrival."""
    found: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        found.setdefault(tuple(row[key] for key in keys), []).append(row)
    return found


def how_many(rows: Sequence[Row]) -> str:
    """Requests, and of them those with a `failed`."""
    failed = sum("failed" in row for row in rows)
    return f"{len(rows)}, {failed} failed" if failed else str(len(rows))


def percentile(values: Sequence[float], percent: int) -> float | None:
    if len(values) < 2:
        return values[0] if values else None
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]


def ms(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds * 1000:.1f}"
