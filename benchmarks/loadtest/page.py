"""A run's results as a Markdown page: errors of times, the generator's limit, and our figures beside another tool's."""

import statistics
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.loadtest.limit import LARGEST_ERROR_S, LARGEST_START_DELAY_S, SMALLEST_SHARE
from benchmarks.tables import Row, causes, groups, head, ms, table

TARGET_ERROR_S = 0.002
LARGEST_DIFFERENCE = 0.05
MET = {True: "yes", False: "**no**"}


def render(document: dict[str, Any], raw_file: str) -> str:
    """`document` is what benchmarks/results.py writes into `raw_file`."""
    parts = [head(document, raw_file)]
    for name, draw in PARTS.items():
        if rows := document.get(name):
            good = [row for row in rows if "failed" not in row]
            parts.append(draw(good, document["settings"]))
            parts += causes(_failures(rows))
    return "\n\n".join(parts) + "\n"


def _accuracy(rows: Sequence[Row], settings: Row) -> str:
    names = {
        "gap_error_s": "ITL, per gap",
        "worst_gap_error_s": "ITL, worst gap of a stream",
        "tpot_error_s": "TPOT, per stream",
        "ttft_error_s": "TTFT, per stream",
        "server_late_s": "server, per event",
        "start_delay_s": "start delay",
    }
    lines = []
    for (arrivals,), group in groups(rows, "arrivals").items():
        for key, name in names.items():
            found = [row[key] for row in group if row[key]]
            cells = [ms2(statistics.median(one[part] for one in found)) if found else "" for part in ("p50", "p99")]
            most = max((one["max"] for one in found), default=None)
            judged = found and key in ("gap_error_s", "ttft_error_s")
            met = MET[statistics.median(one["p99"] for one in found) <= TARGET_ERROR_S] if judged else ""
            lines.append((arrivals, name, *cells, ms2(most), met))
    streams, gaps, unmatched = (sum(row[key] for row in rows) for key in ("streams", "gaps", "unmatched"))
    text = (
        f"{settings['streams']} streams at once, {len(rows)} runs, {streams:,} streams with {gaps:,} gaps, "
        f"{unmatched} of them with another number of events than was sent. Milliseconds between what the load test "
        "measured and what the server wrote down: median over runs of P50 and P99, and the largest of all. "
        "*Server* is how late the server itself was, which happened and is no error; "
        "*start delay* is how late the load test sent, which it reports."
    )
    header = ("arrivals", "error of", "P50", "P99", "max", f"P99 within {TARGET_ERROR_S * 1000:g} ms")
    return f"## Accuracy\n\n{text}\n\n" + table(header, lines)


def _limit(rows: Sequence[Row], settings: Row) -> str:
    lines, limits = [], []
    for (workers, kind), group in groups(rows, "workers", "kind").items():
        within = [row for row in group if row["within"]]
        unit = f"{kind}_per_s"
        best = max((row[unit] for row in within), default=0.0)
        flagged = [row[unit] for row in group if row["generator_limit"]]
        marked = f"{min(flagged):,.0f}" if flagged else "no step"
        limits.append((str(workers), kind, f"{best:,.0f}", f"{best / workers:,.0f}", marked))
        for row in group:
            late, wrong, server = (row[key] for key in ("start_delay_s", "gap_error_s", "server_late_s"))
            share = "" if row["cpu_share"] is None else f"{row['cpu_share']:.0%}"
            numbers = [f"{row[key]:,.0f}" for key in ("chunks_per_s", "streams_per_s", "open")]
            errors = [ms2(part.get("p99")) for part in (wrong, late, server)]
            lines.append((str(workers), kind, *numbers, f"{row['came']:.1%}", *errors, share, MET[row["within"]]))
    text = (
        f"Within: at least {SMALLEST_SHARE:.0%} of what was offered came, P99 of the errors of gaps at most "
        f"{LARGEST_ERROR_S * 1000:g} ms, P99 of the start delay at most {LARGEST_START_DELAY_S * 1000:g} ms. "
        "*Marked* is the first step whose run says by itself that it was near its limit."
    )
    header = (
        "workers",
        "of",
        "chunks/s",
        "streams/s",
        "open",
        "came",
        "error P99",
        "start delay P99",
        "server late P99",
    )
    return (
        f"## The generator's limit\n\n{text}\n\n"
        + table(("workers", "of", "within up to, a second", "per worker", "marked from"), limits)
        + "\n\nMilliseconds; CPU of the busiest process, in cores.\n\n"
        + table((*header, "CPU", "within"), lines)
    )


def _agreement(rows: Sequence[Row], settings: Row) -> str:
    lines = []
    for (target,), group in groups(rows, "target").items():
        ours, theirs = ([row for row in group if row["tool"] == tool] for tool in ("ours", "vllm"))
        for name in ("ttft_p50_s", "itl_p50_s", "ttft_p99_s", "itl_p99_s"):
            values = [[row[name] for row in part if name in row] for part in (ours, theirs)]
            if not all(values):
                continue
            medians = [statistics.median(part) for part in values]
            ratio = medians[0] / medians[1]
            met = MET[abs(ratio - 1) <= LARGEST_DIFFERENCE] if name.endswith("p50_s") else ""
            cells = [cell for part, middle in zip(values, medians, strict=True) for cell in (ms(middle), _spread(part))]
            lines.append((target, _NAMES[name], *cells, f"{ratio:.3f}", met))
    text = (
        "The same load from both tools, in turn: Poisson arrivals, prompts of random words, answers of a fixed length. "
        f"Medians over {settings['rounds']} rounds, with the least and the most of a round; milliseconds."
    )
    header = ("server", "", "ours", "rounds", "vllm bench serve", "rounds", "ratio", f"within {LARGEST_DIFFERENCE:.0%}")
    return f"## Agreement with `vllm bench serve`\n\n{text}\n\n" + table(header, lines)


_NAMES = {"ttft_p50_s": "TTFT P50", "ttft_p99_s": "TTFT P99", "itl_p50_s": "ITL P50", "itl_p99_s": "ITL P99"}
PARTS: dict[str, Callable[[Sequence[Row], Row], str]] = {
    "accuracy": _accuracy,
    "limit": _limit,
    "agreement": _agreement,
}


def _failures(rows: Sequence[Row]) -> Counter[str]:
    found: Counter[str] = Counter()
    for row in rows:
        if "failed" in row:
            found[row["failed"].splitlines()[0]] += 1
        found.update(row.get("errors", {}))
        if row.get("failed_requests"):
            found[f"{row['tool']}: a request failed"] += row["failed_requests"]
    return found


def _spread(values: Sequence[float]) -> str:
    return f"{ms(min(values))} to {ms(max(values))}"


def ms2(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds * 1000:.2f}"
