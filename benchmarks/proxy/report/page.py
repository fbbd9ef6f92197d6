"""A run's results as a Markdown page: medians over rounds, their spread, and what each proxy adds to the direct way."""

import statistics
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.proxy.report import targets
from benchmarks.proxy.report.summary import DIRECT, added, cpu_s_per_1000, events_per_cpu_s, median
from benchmarks.tables import Row, causes, groups, head, table


def render(document: dict[str, Any], raw_file: str) -> str:
    """`document` is what results.py writes into `raw_file`."""
    parts = [head(document, raw_file)]
    if met := targets.lines(document):
        parts.append("## Targets\n\n" + table(("what", "target", "measured", "met"), met))
    for name, draw in PARTS.items():
        if rows := document.get(name):
            parts.append(draw(rows, document["settings"]))
            parts += causes(_errors(rows))
    return "\n\n".join(parts) + "\n"


def _latency(rows: Sequence[Row], settings: Row) -> str:
    loads = groups(rows, "streams", "peer")
    lines = []
    for (number, peer), group in loads.items():
        direct = loads.get((number, DIRECT), [])
        if peer == DIRECT:
            cells = [_ms(median(group, name)) for name in _LATENCY]
        else:
            cells = [_ms(added(group, direct, name), "+.2f") for name in _LATENCY]
        lines.append((str(number), peer, *cells, _spread(group, "ttft_p50_ms", "{:.2f}"), _count(group)))
    pace = f"{settings['tokens']} events {settings['interval_ms']:g} ms apart"
    text = (
        "Milliseconds. The first line of each load is the direct way; the others are what a proxy adds to it, the "
        f"median over rounds. Streams of {pace}; one at a time: 100 events in one piece. *Delay* is the way of one "
        "event from the upstream to the client."
    )
    header = ("streams", "through", "TTFT P50", "P99", "ITL P50", "P99", "delay P50", "P99", "TTFT P50 of rounds")
    return f"## Added latency\n\n{text}\n\n" + table((*header, "requests"), lines)


_LATENCY = ("ttft_p50_ms", "ttft_p99_ms", "itl_p50_ms", "itl_p99_ms", "delay_p50_ms", "delay_p99_ms")


def _throughput(rows: Sequence[Row], settings: Row) -> str:
    lines = []
    for (connections, peer), group in groups(rows, "connections", "peer").items():
        rate = median(group, "requests_per_s")
        lines.append(
            (
                str(connections),
                peer,
                _number(rate),
                _spread(group, "requests_per_s", "{:,.0f}"),
                _number(rate * 100 if rate else rate),
                _ms(median(group, "p50_ms")),
                _ms(median(group, "p99_ms")),
                "" if peer == DIRECT else _ms(cpu_s_per_1000(group)),
                _count(group),
            )
        )
    header = ("requests at once", "through", "requests/s", "rounds", "events/s", "whole request ms P50", "P99")
    text = "Each answer is 100 events in one piece. CPU: of the proxy, all its processes."
    return f"## Requests a second\n\n{text}\n\n" + table((*header, "CPU s per 1,000 requests", "requests"), lines)


def _chunks(rows: Sequence[Row], settings: Row) -> str:
    lines = []
    for (interval_ms, peer), group in groups(rows, "interval_ms", "peer").items():
        events = sum(row["events"] for row in group)
        lines.append(
            (
                str(interval_ms),
                peer,
                _number(group[0]["offered_per_s"]),
                _number(median(group, "events_per_s")),
                _spread(group, "events_per_s", "{:,.0f}"),
                f"{events / max(1, sum(row['reads'] for row in group)):.1f}",
                _ms(median(group, "delay_p50_ms")),
                _ms(median(group, "delay_p99_ms")),
                _number(events_per_cpu_s(group)),
                _count(group),
            )
        )
    header = ("an event every ms", "through", "offered/s", "events/s", "rounds", "events a read", "delay ms P50", "P99")
    text = (
        f"{settings['chunk_streams']} streams. A proxy that cannot keep up passes several events on at once (events a "
        "read), later (delay), and one that is behind can seem cheap for it: compare CPU at the slow pace."
    )
    return f"## Streamed chunks a second\n\n{text}\n\n" + table((*header, "events per CPU s", "requests"), lines)


def _memory(rows: Sequence[Row], settings: Row) -> str:
    lines = []
    for (peer,), group in groups(rows, "peer").items():
        idle = group[0]["rss_mb"][0]
        for row in group:
            rss = row["rss_mb"]
            state = f"{row['streams']:,} open" if row["state"] == "open" else row["state"]
            per_1000 = f"{(rss[-1] - idle) / row['streams'] * 1000:.1f}" if row["streams"] else ""
            drift = f"{rss[-1] - rss[0]:+.1f}" if len(rss) > 1 else ""
            lines.append((peer, state, f"{statistics.median(rss):.1f}", per_1000, drift))
    text = (
        "Resident memory of all processes of a proxy, in MB; every stream has an event a second. *Drift*: from the "
        f"first to the last sample of {settings['hold_seconds']:g} s."
    )
    return f"## Memory of open streams\n\n{text}\n\n" + table(("through", "streams", "MB", "per 1,000", "drift"), lines)


def _profile(rows: Sequence[Row], settings: Row) -> str:
    note = (
        "Share of samples by the innermost Python frame. What is written in C (the event loop, the HTTP parsers, the "
        "kernel) counts for the function that called it, and for `asyncio/runners.py` where the loop itself did."
    )
    parts = [f"## Where our proxy's CPU time goes\n\n{note}"]
    for (load, kind), group in groups(rows, "load", "kind").items():
        lines = [(f"`{row['name']}`", f"{row['share']:.1%}") for row in group]
        parts.append(f"{load.capitalize()}, by {kind}:\n\n" + table((kind, "share"), lines))
    return "\n\n".join(parts)


PARTS: dict[str, Callable[[Sequence[Row], Row], str]] = {
    "latency": _latency,
    "throughput": _throughput,
    "chunks": _chunks,
    "memory": _memory,
    "profile": _profile,
}


def _errors(rows: Sequence[Row]) -> Counter[str]:
    found: Counter[str] = Counter()
    for row in rows:
        found.update({f"{row['peer']}: {cause}": number for cause, number in row.get("errors", {}).items()})
    return found


def _count(group: Sequence[Row]) -> str:
    failed = sum(sum(row["errors"].values()) for row in group)
    return f"{sum(row['requests'] for row in group):,}" + (f", {failed:,} failed" if failed else "")


def _spread(group: Sequence[Row], value: str, form: str) -> str:
    values = [row[value] for row in group if row[value] is not None]
    return f"{form.format(min(values))} to {form.format(max(values))}" if values else ""


def _ms(value: float | None, form: str = ".2f") -> str:
    return "" if value is None else format(value, form)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f}"
