"""The page of a comparison, made from its document (see document.py) and nothing else."""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.serving.measured import ALL
from benchmarks.serving.plan import AGAIN, AGGREGATED, DISAGGREGATED, UPSTREAM
from benchmarks.serving.report import command_lines, comparison
from benchmarks.serving.report.comparison import FIGURES, TOLERANCE, Comparison, Ratio, compare
from benchmarks.serving.report.conclusion import paragraph
from benchmarks.serving.report.sections import Section
from benchmarks.tables import Row, groups, ms

LEGEND = (
    "Disaggregated divided by aggregated; below 1 disaggregation is better, with goodput above 1. "
    "**Bold: disaggregation loses.** In brackets, and not judged: a P99 of fewer than 100 values, hardly more than "
    "their maximum, and anything else of fewer than 10. n: the fewest requests behind a ratio. Points that are left "
    "out stand here too, and count for nothing above."
)
UPSTREAM_LEGEND = (
    "The stack divided by the same vLLM servers with MooncakeConnector, which is vLLM's own, behind vllm-router: below "
    "1 ours is better, with goodput above 1. **Bold: ours loses.**"
)
FEW_FOR_SATURATION = 30  # loadtest/figures/saturation.py says nothing of fewer requests


def lead(document: dict[str, Any]) -> str:
    """The paragraph at the top."""
    rows = document.get("measurements", [])
    found = compare(rows, DISAGGREGATED, AGGREGATED, control_noise(document))
    if found:
        return paragraph(found)
    noise = control_noise(document)
    if noise:
        worst = ", ".join(f"{name} {value:.0%}" for name, value in noise.items())
        return f"A control, no comparison: two runs of the same stack differed by at most {worst}."
    return "No point has been measured on both sides yet."


def control_noise(document: dict[str, Any]) -> dict[str, float]:
    """By figure; empty without a control."""
    return comparison.noise(document.get("measurements", []), AGAIN, DISAGGREGATED)


def sections(document: dict[str, Any]) -> list[Section]:
    rows: list[Row] = document.get("measurements", [])
    noise = control_noise(document)
    parts = [_about(document)]
    if found := compare(rows, DISAGGREGATED, AGGREGATED, noise):
        parts.append(Section("Ratios", [LEGEND, _even(noise)], *_ratios(found, rows)))
    if found := compare(rows, DISAGGREGATED, UPSTREAM, noise):
        parts.append(Section("Ratios to vLLM's own connector", [UPSTREAM_LEGEND], *_ratios(found, rows)))
    if found := compare(rows, AGAIN, DISAGGREGATED, {}):
        text = "The same stack twice, the second run divided by the first: what a ratio is where nothing differs."
        parts.append(Section("Control", [text], *_control(found, rows)))
    if rows:
        parts.append(_absolute(rows))
    parts += _servers(document)
    if errors := _errors(rows):
        parts.append(
            Section("What went wrong", ["Counted as their outcome, never in the times."], ("requests",), errors)
        )
    return parts


def _about(document: dict[str, Any]) -> Section:
    facts = {**document["machine"], **document["versions"], **document["conditions"]}
    texts = [
        f"Figures of every run: [{document['raw_file']}]({document['raw_file']}); with charts, where the run was made: "
        f"`{document['html_file']}`. Started {document['started']}, ended: {document['ended']}."
    ]
    return Section("What was measured", texts, ("", ""), [(k, str(v)) for k, v in facts.items()], document["command"])


def _even(noise: dict[str, float]) -> str:
    if not noise:
        return f"Ratios from {1 / (1 + TOLERANCE):.2f} to {1 + TOLERANCE:.2f} count as even; no control was measured."
    spans = [
        f"{name} {1 / (1 + max(TOLERANCE, value)):.2f} to {1 + max(TOLERANCE, value):.2f}"
        for name, value in noise.items()
    ]
    return f"What counts as even is what the control differed by, at least 10 %: {', '.join(spans)}."


def _ratios(found: Sequence[Comparison], rows: Sequence[Row]) -> tuple[Sequence[str], list[tuple[str, ...]]]:
    header = (*_HEADER, "disaggregation")
    return header, [(*_line(at, rows, _marked), _verdict(at, _requests(at, rows))) for at in found]


def _control(found: Sequence[Comparison], rows: Sequence[Row]) -> tuple[Sequence[str], list[tuple[str, ...]]]:
    return (*_HEADER, "note"), [(*_line(at, rows, _spread), at.left_out) for at in found]


_HEADER = ("in/out tokens", "requests/s", "requests", *(figure.name for figure in FIGURES), "n")


def _line(at: Comparison, rows: Sequence[Row], cell: Callable[[Ratio], str]) -> tuple[str, ...]:
    shape, _, rate = at.point.partition("@")
    cells = [cell(at.ratios[figure.name]) if figure.name in at.ratios else "" for figure in FIGURES]
    return (shape, rate, at.requests, *cells, str(_requests(at, rows)))


def _requests(at: Comparison, rows: Sequence[Row]) -> int:
    """The fewest of any run of the point."""
    return min(int(row["ttft_n"]) for row in rows if (row["point"], row["requests"]) == (at.point, at.requests))


def _marked(ratio: Ratio) -> str:
    text = _spread(ratio)
    match ratio.verdict:
        case "few":
            return f"({text})"
        case "loses":
            return f"**{text}**"
    return text


def _spread(ratio: Ratio) -> str:
    median, low, high = (f"{value:.2f}" for value in (ratio.median, ratio.low, ratio.high))
    return median if low == high else f"{median} [{low} to {high}]"


def _verdict(at: Comparison, requests: int) -> str:
    if at.left_out:
        return f"left out: {at.left_out}"
    parts = [f"{verb} {', '.join(names)}" for verb in ("wins", "loses") if (names := at.figures(verb))]
    if unclear := at.figures("unclear"):
        parts.append(f"repeats disagree on {', '.join(unclear)}")
    few = at.figures("few")
    if names := [figure.name for figure in FIGURES if figure.name in few and not figure.is_p99]:
        parts.append(f"too few values to judge {', '.join(names)}")
    if at.requests == ALL and requests < FEW_FOR_SATURATION:
        parts.append("too few requests to see saturation")
    return "; ".join(parts) or "even"


def _absolute(rows: Sequence[Row]) -> Section:
    header = (
        *("in/out tokens", "requests/s", "requests", "side", "run"),
        *("TTFT ms P50", "P99", "ITL ms P50", "P99", "TPOT ms P50", "goodput/s", "share", "n"),
        *("completed, failed, cut off", "path", "transport", "note"),
    )
    lines = []
    for (point, requests), group in groups(rows, "point", "requests").items():
        for row in sorted(group, key=lambda row: (row["side"], row["repeat"])):
            shape, _, rate = point.partition("@")
            times = [ms(row[key]) for key in ("ttft_p50_s", "ttft_p99_s", "itl_p50_s", "itl_p99_s", "tpot_p50_s")]
            share = "" if row["goodput_share"] is None else f"{row['goodput_share']:.0%}"
            goodput = "" if row["goodput_per_s"] is None else f"{row['goodput_per_s']:.2f}"
            outcomes = "/".join(str(row["outcomes"].get(name, 0)) for name in ("completed", "failed", "cut_off"))
            note = "; ".join(filter(None, (row["saturation"], row["generator_limit"])))
            lines.append(
                (
                    *(shape, rate, requests, row["side"], str(row["repeat"] + 1), *times, goodput, share),
                    *(str(row["ttft_n"]), outcomes, _counted(row["paths"]), _counted(row["transports"]), note),
                )
            )
    return Section("The figures behind them", [], header, lines)


def _servers(document: dict[str, Any]) -> list[Section]:
    """The two sides' command lines: what they share once, and what only one of them has."""
    servers = document.get("servers") or {}
    if not any(servers.values()):
        return []
    lines = [
        (
            side,
            str(len(servers[side])),
            "; ".join(f"`{option}`" for option in command_lines.own(servers, side)) or "nothing",
        )
        for side in servers
    ]
    text = "Ports aside, all vLLM servers of both sides have the command line below and, beyond it:"
    code = "python -m " + " ".join(command_lines.shared(servers))
    return [Section("Same flags", [text], ("side", "servers", "only here"), lines, code)]


def _errors(rows: Sequence[Row]) -> list[tuple[str]]:
    found: Counter[str] = Counter()
    for row in rows:
        if row["requests"] == ALL:
            found.update({f"{row['side']}, {row['point']}: {cause}": n for cause, n in row["errors"].items()})
    return [(f"{number} × {cause}",) for cause, number in found.most_common()]


def _counted(counts: dict[str, int]) -> str:
    return ", ".join(f"{number} {name}" for name, number in counts.items())
