"""A soak's report as Markdown: the verdict, what the users saw, memory, and how it was judged."""

from typing import Any

from benchmarks.soak.verdict import MIB
from benchmarks.tables import Row, head, ms, table

RULE = (
    "Memory is flat unless it has an upward trend beyond doubt (Mann-Kendall test) that carries it by more than 2 % of "
    "its median, or 4 MiB, over the window (Sen's slope; the method is that of Garg et al., ISSRE 1998). The window is "
    "the time of the most users after a warm-up, because heaps and caches fill first. Memory is PSS of a process with "
    "its children, or what `docker stats` says of a container; `load` is the load generator, which keeps its newest "
    "10,000 requests: until it has them, 4 KiB for each are allowed beside."
)
WORDS = {True: "yes", False: "**no**", None: "–"}


def render(document: dict[str, Any], raw_file: str) -> str:
    """`document` is what benchmarks/results.py writes into `raw_file`."""
    parts = [head(document, raw_file)]
    if lines := document.get("lines"):
        cells = [(line["name"], line["measured"], line["wanted"], WORDS[line["passed"]]) for line in lines]
        parts.append("## Verdict\n\n" + table(("what", "measured", "wanted", "met"), cells))
    if summary := document.get("summary"):
        parts.append(_load(summary[0]))
    if samples := document.get("samples"):
        parts.append(_instances(samples))
        parts.append(_memory(samples, document["settings"]))
    return "\n\n".join(parts) + "\n"


def _load(summary: Row) -> str:
    names = {"ttft_s": "TTFT", "itl_s": "ITL", "tpot_s": "TPOT", "end_to_end_s": "end to end"}
    lines = [(name, *(ms(summary[key][part]) for part in ("p50", "p99", "max"))) for key, name in names.items()]
    rates = f"{summary['requests_per_s']} requests/s, {summary['output_tokens_per_s']} output tokens/s."
    return f"## The load\n\n{rates} In ms:\n\n" + table(("", "P50", "P99", "max"), lines)


def _instances(samples: list[Row]) -> str:
    names = dict.fromkeys(name for sample in samples for name in sample["instances"])
    lines = []
    for name in names:
        seen = [sample["instances"][name] for sample in samples if name in sample["instances"]]
        most = {key: max(one[key] for one in seen) for key in ("running", "waiting", "blocks")}
        preempted = seen[-1]["preemptions"] - seen[0]["preemptions"]
        lines.append((name, *(f"{most[key]:,}" for key in most), f"{preempted:,}"))
    header = ("", "running at most", "waiting at most", "blocks at most", "preemptions")
    return "## The instances\n\n" + table(header, lines)


def _memory(samples: list[Row], settings: Row) -> str:
    names = dict.fromkeys(name for sample in samples for name in sample["memory"])
    lines = []
    for name in names:
        seen = [(sample["at"], sample["memory"][name]) for sample in samples if name in sample["memory"]]
        warm = next((value for at, value in seen if at >= settings["judged_from_s"]), seen[-1][1])
        values = (seen[0][1], warm, seen[-1][1], max(value for _, value in seen))
        lines.append((name, *(f"{value / MIB:,.0f}" for value in values)))
    header = ("MiB", "first", "warm", "last", "most")
    return f"## Memory\n\n{RULE}\n\n" + table(header, lines)
