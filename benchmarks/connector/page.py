"""A run's results as a Markdown page: medians, percentiles and ratios, made from the raw values and nothing else."""

import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

Row = dict[str, Any]
EARLY = "moved early"


def render(document: dict[str, Any], raw_file: str) -> str:
    """`document` is what results.py writes into `raw_file`."""
    parts = [_head(document, raw_file)]
    for table, draw in (("latency", _latency), ("concurrency", _concurrency), ("link", _link), ("answers", _answers)):
        if rows := document.get(table):
            parts.append(draw(rows))
            parts += _failures(rows)
    return "\n\n".join(parts) + "\n"


def _head(document: dict[str, Any], raw_file: str) -> str:
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
        _table(("", ""), [(name, str(value)) for name, value in facts.items()]),
    ]
    return "\n".join(lines)


def _latency(rows: Sequence[Row]) -> str:
    groups = _groups(rows, "stage", "prompt_tokens", "route")
    lines = []
    for (stage, tokens, route), group in groups.items():
        ttft, base = _median(group), _median(groups.get((stage, tokens, "single"), []))
        lines.append(
            (
                stage,
                f"{tokens:,}",
                route,
                _ms(ttft),
                _span(group),
                f"{ttft / base:.2f}" if ttft and base and route != "single" else "",
                _after_prefill(group),
                *_transfer(group),
                _counts(group),
            )
        )
    header = ("stage", "prompt tokens", "route", "TTFT ms", "min to max", "times single", "after prefill ms")
    facts = ("exposed ms", EARLY, "pieces", "MB")
    return "## One request at a time\n\nMedians.\n\n" + _table((*header, *facts, "requests"), lines)


def _concurrency(rows: Sequence[Row]) -> str:
    lines = []
    for (stage, users, route), group in _groups(rows, "stage", "users", "route").items():
        answered = [row for row in group if "failed" not in row]
        ttfts = [row["ttft_s"] for row in answered]
        gaps = [gap for row in answered for gap in row["itl_s"]]
        tpots = [sum(row["itl_s"]) / (row["tokens"] - 1) for row in answered if row["tokens"] > 1]
        percentiles = [_ms(_percentile(values, percent)) for values in (ttfts, gaps, tpots) for percent in (50, 99)]
        # Events are one more than gaps.
        tokens, events = sum(row["tokens"] for row in answered), len(gaps) + len(answered)
        lines.append(
            (stage, str(users), route, *percentiles, f"{tokens / events:.1f}" if events else "", _counts(group))
        )
    times = ("TTFT ms P50", "P99", "ITL ms P50", "P99", "TPOT ms P50", "P99")
    header = ("stage", "users", "route", *times, "tokens an event", "requests")
    return "## Under load\n\n" + _table(header, lines)


def _link(rows: Sequence[Row]) -> str:
    lines = []
    for (route,), group in _groups(rows, "route").items():
        prefill = [row["prefill_s"] for row in group if "failed" not in row]
        exposed = [transfer["exposed_seconds"] for transfer in _transfers(group)]
        span = f"{_ms(min(exposed))} to {_ms(max(exposed))}" if exposed else ""
        prefill_ms = _ms(statistics.median(prefill) if prefill else None)
        facts = _transfer(group)
        lines.append((route, facts[0], span, prefill_ms, _ms(_median(group)), *facts[1:], _counts(group)))
    header = ("producer", "exposed ms", "min to max", "prefill leg ms", "TTFT ms", EARLY, "pieces", "MB", "requests")
    return "## A slow link\n\nMedians.\n\n" + _table(header, lines)


def _answers(rows: Sequence[Row]) -> str:
    lines = [(row["stage"], row["route"], f"{row['equal']} of {row['tokens']}") for row in rows]
    note = "Greedy tokens from the first on, for one prompt."
    return f"## Same answers as the single server\n\n{note}\n\n" + _table(("stage", "route", "equal"), lines)


def _failures(rows: Sequence[Row]) -> list[str]:
    """How often what went wrong, as one part of the page; none when nothing did."""
    causes = Counter(f"{row['route']}: {row['failed']}" for row in rows if "failed" in row)
    return ["\n".join(f"- {count} × {cause}" for cause, count in causes.most_common())] if causes else []


def _groups(rows: Iterable[Row], *keys: str) -> dict[tuple[Any, ...], list[Row]]:
    """Rows by their values of `keys`, in the order of arrival."""
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row[key] for key in keys), []).append(row)
    return groups


def _median(group: Sequence[Row]) -> float | None:
    """TTFT in seconds of the requests that did not fail."""
    values = [row["ttft_s"] for row in group if "failed" not in row]
    return statistics.median(values) if values else None


def _span(group: Sequence[Row]) -> str:
    values = [row["ttft_s"] for row in group if "failed" not in row]
    return f"{_ms(min(values))} to {_ms(max(values))}" if values else ""


def _after_prefill(group: Sequence[Row]) -> str:
    """From the producer's answer to the consumer's first token: what a pair adds to a prefill."""
    legs = [row["ttft_s"] - row["prefill_s"] for row in group if row.get("prefill_s") is not None]
    return _ms(statistics.median(legs)) if legs else ""


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
    return _ms(exposed), f"{early:.0%}", range_of_pieces, f"{size / 1e6:.1f}"


def _counts(group: Sequence[Row]) -> str:
    failed = sum("failed" in row for row in group)
    return f"{len(group)}, {failed} failed" if failed else str(len(group))


def _percentile(values: Sequence[float], percent: int) -> float | None:
    if len(values) < 2:
        return values[0] if values else None
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]


def _ms(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds * 1000:.1f}"


def _table(header: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (header, ["---"] * len(header), *lines))
