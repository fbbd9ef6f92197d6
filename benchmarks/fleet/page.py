"""The page of a run, made from its raw results."""

from typing import Any

from benchmarks.tables import Row, head, ms, percentile, table

TARGETS = """\
Targets: a route in 200 µs at 100 instances and 1 ms at 1,000; a change seen within 1 s; `/instances` and `/metrics`
usable with 1,000 instances: answered within 0.5 s, because streams stand still meanwhile, and in at most 4 MB."""


def render(document: dict[str, Any], raw_file: str) -> str:
    """`document` is what benchmarks/results.py writes into `raw_file`."""
    parts = [head(document, raw_file), TARGETS]
    for name, section in (
        ("routes", _routes),
        ("discovery", _discovery),
        ("requests", _requests),
        ("status", _status),
        ("peers", _peers),
    ):
        if rows := document.get(name):
            parts.append(section(rows, document))
    return "\n\n".join(parts) + "\n"


def _routes(rows: list[Row], document: dict[str, Any]) -> str:
    memory = {row["instances"]: row["rss_mb"] for row in document.get("remembered", [])}
    lines = [
        (
            _number(row["instances"]),
            *_us(row["chosen_us"]),
            *_us(row["counted_us"]),
            f"{memory[row['instances']]:.0f}" if row["instances"] in memory else "",
        )
        for row in rows
    ]
    header = ("instances", "route, µs: P50", "P99", "counted, µs: P50", "P99", "memory, MB")
    text = (
        "Half of the instances are producers. Two requests in hand for each; prompts begin like others. `counted`: the "
        "legs begin, the prompt is held, an older request ends. `memory`: of a fleet that remembers as much as it may."
    )
    return f"## A route\n\n{text}\n\n{table(header, lines)}"


def _discovery(rows: list[Row], document: dict[str, Any]) -> str:
    lines = [
        (
            _number(row["instances"]),
            f"{row['bytes'] / 1e6:.2f}",
            ms(row["whole_s"]),
            *(ms(value) for name in ("come_s", "gone_s") for value in (percentile(row[name], 50), max(row[name]))),
            ms(percentile(row["updated_s"], 50)),
            ms(percentile(row["first_route_s"], 50)),
        )
        for row in rows
    ]
    header = (
        *("instances", "records, MB", "full view, ms"),
        *("one more, ms: P50", "max", "one less, ms: P50", "max", "taken over, ms", "first route, ms"),
    )
    text = (
        "`full view`: from the start until all are known. `one more`, `one less`: from before the write to etcd until "
        "the next request is routed by it. `taken over`, `first route`: parts of that in the loop that serves requests."
    )
    return f"## Discovery\n\n{text}\n\n{table(header, lines)}"


def _requests(rows: list[Row], document: dict[str, Any]) -> str:
    lines = [
        (
            _number(row["instances"]),
            f"{1000 * row['cpu_s']:.2f}",
            *(ms(percentile(row["ttft_s"], percent)) for percent in (50, 99)),
            f"{row['idle_mb']:.0f}",
            f"{row['rss_mb']:.0f}",
            str(len(row["ttft_s"])),
        )
        for row in rows
    ]
    header = ("instances", "CPU, ms a request", "TTFT, ms: P50", "P99", "idle, MB", "after them, MB", "requests")
    text = (
        "The proxy as a process, two requests at a time of 4,096 bytes, instances that answer at once. With more "
        "instances there are more connections: each request goes over one that was idle for longer."
    )
    return f"## A request\n\n{text}\n\n{table(header, lines)}"


def _status(rows: list[Row], document: dict[str, Any]) -> str:
    lines = [
        (_number(row["instances"]), f"`{row['path']}`", f"{row['bytes'] / 1000:,.1f}", *map(ms, _middle_and_most(row)))
        for row in rows
    ]
    return "## Status paths\n\n" + table(("instances", "path", "KB", "ms: median", "max"), lines)


def _peers(rows: list[Row], document: dict[str, Any]) -> str:
    one = percentile(rows[0]["ttft_s"], 99) or 0.0
    lines = []
    for row in rows:
        p50, p99 = (percentile(row["ttft_s"], percent) or 0.0 for percent in (50, 99))
        told = "" if row["proxies"] == 1 else "yes" if row["told"] else "no"
        mean_s = sum(row["ttft_s"]) / len(row["ttft_s"])
        figures = (ms(mean_s), ms(p50), ms(p99), f"{p99 / one:.2f}", f"{1000 * row['cpu_s']:.2f}")
        lines.append((str(row["proxies"]), told, *figures, f"{len(row['ttft_s']):,}"))
    header = ("proxies", "told", "TTFT, ms: mean", "P50", "P99", "P99 to one's", "CPU, ms a request", "requests")
    text = (
        "Before 100 scripted instances, whose producers compute one prompt after the other at a fixed rate and are "
        "busy for 85 % of the time; the same requests at the same times, each to a proxy at random. `told`: "
        "`PROXY_PEERS`. CPU: of all proxies together."
    )
    return f"## Several proxies\n\n{text}\n\n{table(header, lines)}"


def _middle_and_most(row: Row) -> tuple[float | None, float]:
    return percentile(row["seconds"], 50), max(row["seconds"])


def _us(values_us: list[float]) -> tuple[str, str]:
    values = [percentile(values_us, percent) for percent in (50, 99)]
    middle, high = (f"{value:.0f}" if value is not None else "" for value in values)
    return middle, high


def _number(value: int) -> str:
    return f"{value:,}"
