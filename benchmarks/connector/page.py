"""A run's results as a Markdown page: medians, percentiles and ratios, made from the raw values and nothing else."""

import statistics
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.connector import speculation_page
from benchmarks.tables import Row, causes, groups, head, how_many, ms, percentile, table

EARLY = "moved early"


def render(document: dict[str, Any], raw_file: str) -> str:
    """`document` is what results.py writes into `raw_file`."""
    parts = [head(document, raw_file)]
    for name, draw in _PARTS.items():
        if rows := document.get(name):
            parts.append(draw(rows))
            parts += _failures(rows)
    return "\n\n".join(parts) + "\n"


def _latency(rows: Sequence[Row]) -> str:
    by_route = groups(rows, "stage", "prompt_tokens", "route")
    lines = []
    for (stage, tokens, route), group in by_route.items():
        ttft, base = _median(group), _median(by_route.get((stage, tokens, "single"), []))
        lines.append(
            (
                stage,
                f"{tokens:,}",
                route,
                ms(ttft),
                _span(group),
                f"{ttft / base:.2f}" if ttft and base and route != "single" else "",
                _after_prefill(group),
                _second(group),
                *_transfer(group),
                how_many(group),
            )
        )
    times = ("TTFT ms", "min to max", "times single", "after prefill ms", "to the second token ms")
    header = ("stage", "prompt tokens", "route", *times)
    facts = ("exposed ms", EARLY, "pieces", "MB")
    return "## One request at a time\n\nMedians.\n\n" + table((*header, *facts, "requests"), lines)


def _concurrency(rows: Sequence[Row]) -> str:
    lines = []
    for (stage, users, route), group in groups(rows, "stage", "users", "route").items():
        answered = [row for row in group if "failed" not in row]
        ttfts = [row["ttft_s"] for row in answered]
        gaps = [gap for row in answered for gap in row["itl_s"]]
        tpots = [sum(row["itl_s"]) / (row["tokens"] - 1) for row in answered if row["tokens"] > 1]
        percentiles = [ms(percentile(values, percent)) for values in (ttfts, gaps, tpots) for percent in (50, 99)]
        # Events are one more than gaps.
        tokens, events = sum(row["tokens"] for row in answered), len(gaps) + len(answered)
        lines.append(
            (stage, str(users), route, *percentiles, f"{tokens / events:.1f}" if events else "", how_many(group))
        )
    times = ("TTFT ms P50", "P99", "ITL ms P50", "P99", "TPOT ms P50", "P99")
    header = ("stage", "users", "route", *times, "tokens an event", "requests")
    return "## Under load\n\n" + table(header, lines)


def _link(rows: Sequence[Row]) -> str:
    lines = []
    for (route,), group in groups(rows, "route").items():
        prefill = [row["prefill_s"] for row in group if "failed" not in row]
        exposed = [transfer["exposed_seconds"] for transfer in _transfers(group)]
        span = f"{ms(min(exposed))} to {ms(max(exposed))}" if exposed else ""
        prefill_ms = ms(statistics.median(prefill) if prefill else None)
        facts = _transfer(group)
        lines.append((route, facts[0], span, prefill_ms, ms(_median(group)), *facts[1:], how_many(group)))
    header = ("producer", "exposed ms", "min to max", "prefill leg ms", "TTFT ms", EARLY, "pieces", "MB", "requests")
    return "## A slow link\n\nMedians.\n\n" + table(header, lines)


def _threshold(rows: Sequence[Row]) -> str:
    by_length = groups(rows, "stage", "prompt_tokens")
    lines = []
    for (stage, tokens), group in by_length.items():
        answered = [row for row in group if "failed" not in row]
        alone = [row for row in answered if row["route"] == "consumer alone"]
        pair = [row for row in answered if row["route"] != "consumer alone"]
        if not alone or not pair:
            continue
        ttft, gap = (
            [statistics.median(row[name] for row in side) for side in (alone, pair)]
            for name in ("ttft_s", "longest_gap_s")
        )
        lines.append((stage, f"{tokens:,}", *map(ms, ttft), ms(ttft[1] - ttft[0]), *map(ms, gap), ms(gap[0] - gap[1])))
    times = ("TTFT ms alone", "with a producer", "later by", "longest gap ms alone", "with a producer", "shorter by")
    note = "Medians. The gap is that of a stream which runs on the consumer at the same time."
    return f"## Alone or with a producer\n\n{note}\n\n" + table(("stage", "prompt tokens", *times), lines)


def _answers(rows: Sequence[Row]) -> str:
    by_route = groups([row for row in rows if "equal" in row], "stage", "route")
    lines = [
        (stage, route, ", ".join(f"{row['equal']} of {len(row['answer'])}" for row in group), _lengths(group))
        for (stage, route), group in by_route.items()
    ]
    said = [tuple(row["answer"]) for row in rows if row["route"] == "single" and "answer" in row]
    note = (
        "Greedy tokens from the first on, up to the first other one. `single again` and `single beside others` are "
        "the single server asked once more, with the prompt in its cache and in two steps: what differs is noise. "
        f"It gave {len(set(said))} different answers to {len(said)} prompts."
    )
    return f"## Same answers as the single server\n\n{note}\n\n" + table(
        ("stage", "route", "equal", "prompt tokens"), lines
    )


def _lengths(group: Sequence[Row]) -> str:
    return " / ".join(f"{row['prompt_tokens']:,}" for row in group)


_PARTS: dict[str, Callable[[Sequence[Row]], str]] = {
    "latency": _latency,
    "concurrency": _concurrency,
    "threshold": _threshold,
    "speculation": speculation_page.times,
    "guesses": speculation_page.guesses,
    "link": _link,
    "answers": _answers,
}


def _failures(rows: Sequence[Row]) -> list[str]:
    return causes(Counter(f"{row['route']}: {row['failed']}" for row in rows if "failed" in row))


def _median(group: Sequence[Row]) -> float | None:
    """TTFT in seconds of the requests that did not fail."""
    values = [row["ttft_s"] for row in group if "failed" not in row]
    return statistics.median(values) if values else None


def _span(group: Sequence[Row]) -> str:
    values = [row["ttft_s"] for row in group if "failed" not in row]
    return f"{ms(min(values))} to {ms(max(values))}" if values else ""


def _after_prefill(group: Sequence[Row]) -> str:
    """From the producer's answer to the consumer's first token: what a pair adds to a prefill."""
    legs = [row["ttft_s"] - row["prefill_s"] for row in group if row.get("prefill_s") is not None]
    return ms(statistics.median(legs)) if legs else ""


def _second(group: Sequence[Row]) -> str:
    gaps = [row["second_s"] for row in group if row.get("second_s") is not None]
    return ms(statistics.median(gaps)) if gaps else ""


def _transfers(group: Sequence[Row]) -> list[Row]:
    """The facts of our connector; other routes have none."""
    facts = [row.get("transfer") or {} for row in group]
    return [transfer for transfer in facts if "exposed_seconds" in transfer]


def _transfer(group: Sequence[Row]) -> tuple[str, str, str, str]:
    transfers = _transfers(group)
    if not transfers:
        return "", "", "", ""

    def median(value: Callable[[Row], float]) -> float:
        return statistics.median(map(value, transfers))

    exposed = median(lambda facts: facts["exposed_seconds"])
    early = median(lambda facts: facts["early_bytes"] / facts["bytes"])
    size = median(lambda facts: facts["bytes"])
    pieces = sorted({int(facts["pieces"]) for facts in transfers})
    range_of_pieces = f"{pieces[0]} to {pieces[-1]}" if len(pieces) > 1 else str(pieces[0])
    return ms(exposed), f"{early:.0%}", range_of_pieces, f"{size / 1e6:.1f}"
