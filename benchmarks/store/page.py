"""A run's results as a Markdown page: medians and ratios, made from the raw values and nothing else."""

import statistics
from collections import Counter
from collections.abc import Sequence
from typing import Any

from benchmarks.store.turns import OFF, TABLE
from benchmarks.tables import Row, causes, groups, head, how_many, ms, table

MIB = 1 << 20
NOTE = (
    "Of one prompt at a time, sent straight to a prefill instance that answers one token; a pair adds its transfer. "
    "Medians. *Times off*: to the instance without the store beside it, which computes the prompt. *Same token*: as "
    "the first answer to that prompt, which was computed."
)


def render(document: dict[str, Any], raw_file: str) -> str:
    """`document` is what results.py writes into `raw_file`."""
    parts = [head(document, raw_file)]
    if rows := document.get(TABLE):
        parts.append(_ttft(rows))
        parts += causes(Counter(f"{row['route']}: {row['failed']}" for row in rows if "failed" in row))
    if found := document.get("store"):
        parts.append(_store(found[-1]))
    return "\n\n".join(parts) + "\n"


def _ttft(rows: Sequence[Row]) -> str:
    by_route = groups(rows, "stage", "prompt_tokens", "route")
    lines = []
    for (stage, tokens, route), group in by_route.items():
        times = _times(group)
        middle, base = _median(times), _median(_times(by_route.get((stage, tokens, OFF), [])))
        ratio = f"{middle / base:.3f}" if middle and base and route != OFF else ""
        span = f"{ms(min(times))} to {ms(max(times))}" if times else ""
        lines.append(
            (
                stage,
                f"{tokens:,}",
                route,
                ms(middle),
                span,
                ratio,
                *(_tokens(group, name) for name in ("local_tokens", "store_tokens")),
                _same(group),
                how_many(group),
            )
        )
    header = ("", "prompt tokens", "route", "TTFT ms", "min to max", "times off", "found locally", "in the store")
    return f"## Time to the first token\n\n{NOTE}\n\n" + table((*header, "same token", "requests"), lines)


def _store(found: Row) -> str:
    evicted = f"{found['evicted_keys']:,} keys had to make room for others" if found["evicted_keys"] else "none evicted"
    return f"At the end the store of {found['capacity_bytes'] / MIB:,.0f} MiB held {found['keys']:,} keys, {evicted}."


def _times(group: Sequence[Row]) -> list[float]:
    """Of the requests that did not fail, in seconds."""
    return [row["ttft_s"] for row in group if "failed" not in row]


def _median(times: Sequence[float]) -> float | None:
    return statistics.median(times) if times else None


def _same(group: Sequence[Row]) -> str:
    told = [row["same_token"] for row in group if "same_token" in row]
    return f"{sum(told)} of {len(told)}" if told else ""


def _tokens(group: Sequence[Row], name: str) -> str:
    return " / ".join(f"{number:,}" for number in sorted({row[name] for row in group if name in row}))
