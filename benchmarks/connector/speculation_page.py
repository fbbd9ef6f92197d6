"""The page's part about speculative decoding: what a token takes, and how much of what was guessed was right."""

import statistics
from collections.abc import Sequence

from benchmarks.tables import Row, groups, how_many, ms, percentile, table

TIMES_NOTE = (
    "TPOT: from a request's first token to its last, divided by the tokens between; P50 and P99 over requests. "
    "Routes had the same prompts: `same answer` counts requests whose greedy tokens are all the single server's, "
    "`equal` is the median of the tokens up to the first other one."
)
GUESSES_NOTE = (
    "Counted by the server that decodes. A draft is one step of one request; `accepted a draft` and `steps a request` "
    "leave out each request's first step behind a load, which vLLM pads with guesses that nobody made, and counts."
)


def times(rows: Sequence[Row]) -> str:
    by_route = groups(rows, "stage", "users", "route")
    lines = []
    for (stage, users, route), group in by_route.items():
        tpots = _tpots(group)
        single = _tpots(by_route.get((stage, users, "single"), [])) if route != "single" else []
        lines.append((stage, str(users), route, *_beside(tpots, single), *_same(group), how_many(group)))
    header = ("stage", "users", "route", "TPOT ms P50", "times single", "P99", "times single", "same answer", "equal")
    return f"## With speculative decoding\n\n{TIMES_NOTE}\n\n" + table((*header, "requests"), lines)


def guesses(rows: Sequence[Row]) -> str:
    lines = []
    for (stage, users, route), group in groups(rows, "stage", "users", "route").items():
        counted = {name: sum(row[name] for row in group) for name in ("drafts", "draft_tokens", "accepted")}
        answered, loaded = (sum(row[name] for row in group) for name in ("answered", "loaded"))
        guessed = counted["drafts"] - loaded
        lines.append(
            (
                *(stage, str(users), route),
                *(f"{count:,}" for count in counted.values()),
                f"{counted['accepted'] / guessed:.3f}" if guessed > 0 else "",
                f"{guessed / answered:.1f}" if answered else "",
            )
        )
    header = ("stage", "users", "route", "drafts", "draft tokens", "accepted", "accepted a draft", "steps a request")
    return f"## What the drafts guessed\n\n{GUESSES_NOTE}\n\n" + table(header, lines)


def _tpots(group: Sequence[Row]) -> list[float]:
    """In seconds."""
    return [sum(row["itl_s"]) / (row["tokens"] - 1) for row in group if row.get("tokens", 0) > 1]


def _beside(tpots: Sequence[float], single: Sequence[float]) -> list[str]:
    """P50 and P99, each with what it is times the single server's."""
    cells = []
    for percent in (50, 99):
        value, base = percentile(tpots, percent), percentile(single, percent)
        cells += [ms(value), f"{value / base:.2f}" if value and base else ""]
    return cells


def _same(group: Sequence[Row]) -> tuple[str, str]:
    compared = [row for row in group if "equal" in row]
    if not compared:
        return "", ""
    same = sum(row["equal"] == row["tokens"] for row in compared)
    return f"{same} of {len(compared)}", f"{statistics.median(row['equal'] for row in compared):.0f}"
