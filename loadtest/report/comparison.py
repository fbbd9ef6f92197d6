"""Several runs on one page: goodput and latencies against the offered rate, a row of figures for each point.

Runs that differ in their rate alone are one line: same target, workload and lengths. A run of several
stages brings its stages as points.
"""

import re
from collections.abc import Sequence
from pathlib import Path

from loadtest.figures.summary import Summary
from loadtest.report import page, text
from loadtest.report.charts import Line, goodput_against_rate, percentiles_against_rate
from loadtest.report.contents import Table, figures_of
from loadtest.runs.run_folder import Run

Runs = Sequence[tuple[Path, Run]]

# What may differ between the points of one line.
_VARIED = {"LOADTEST_RATE", "LOADTEST_STAGES", "LOADTEST_SEED", "LOADTEST_REQUESTS", "LOADTEST_WORKERS"}
_NUMBER = re.compile(r"[-_][\d.]+$")
_TITLE = "Comparison of load tests"


def page_of(runs: Runs) -> str:
    compared = lines(runs)
    drawn = [goodput_against_rate(compared)] + [
        percentiles_against_rate(compared, metric, name)
        for metric, name in (("ttft_s", "TTFT"), ("itl_s", "ITL"), ("worst_gaps_s", "Worst gaps of a request"))
    ]
    return page.document(_TITLE, _slos(runs), _warnings(runs), [_points(compared)], drawn)


def text_of(runs: Runs) -> str:
    warnings = [f"> **{warning}**" for warning in _warnings(runs)]
    return text.joined([f"# {_TITLE}", _slos(runs), *warnings], [_points(lines(runs))])


def lines(runs: Runs) -> list[Line]:
    """In the order of the runs; named after the folder of a line's first run, without the number at its end."""
    found: dict[str, tuple[str, list[Summary]]] = {}
    for folder, run in runs:
        _, points = found.setdefault(_kind(run), (_NUMBER.sub("", folder.name), []))
        points += [stage.summary for stage in run.stages] or ([run.summary] if run.summary else [])
    return [Line(name, points) for name, points in found.values()]


def _kind(run: Run) -> str:
    settings = {name: value for name, value in sorted(run.settings.items()) if name not in _VARIED}
    instances = sorted(str(instance.get("role")) for instance in run.manifest.instances)
    return f"{run.manifest.models} {instances} {settings}"


def _slos(runs: Runs) -> str:
    return "SLO: " + "; ".join(dict.fromkeys(str(run.slo) for _, run in runs))


def _warnings(runs: Runs) -> list[str]:
    found = [
        f"{folder.name}: the load generator was at its limit: {run.summary.generator_limit}."
        for folder, run in runs
        if run.summary and run.summary.generator_limit
    ]
    if len({str(run.slo) for _, run in runs}) > 1:
        found.append("The runs have different SLOs: their goodputs cannot be compared.")
    return found


def _points(compared: Sequence[Line]) -> Table:
    header = (
        *("run", "offered/s", "completed/s", "goodput/s", "goodput share"),
        *("TTFT P50, ms", "TTFT P99, ms", "ITL P50, ms", "ITL P99, ms", "output tokens/s", "saturated"),
    )
    rows = [
        (line.name, *figures_of(point), "yes" if point.saturation else "no")
        for line in compared
        for point in sorted(line.points, key=lambda point: point.offered_per_s or 0.0)
    ]
    return Table("Points", header, rows)
