"""One headless run of the load test at one point of a sweep."""

from collections.abc import Mapping
from pathlib import Path

from benchmarks.processes import Processes
from benchmarks.serving.mixture import trace
from benchmarks.serving.plan import Slo
from benchmarks.serving.points import Point
from benchmarks.whole_stack import headless
from benchmarks.whole_stack.stack_side import Target

TRACE = "trace.jsonl"


def run(
    point: Point,
    folder: Path,
    *,
    target: Target,
    seconds: float,
    warmup: float,
    seed: int,
    slo: Slo,
    environment: Mapping[str, str],
    processes: Processes,
) -> None:
    """Leaves run.json and requests.jsonl in `folder`. Raises: CannotStart: it has not."""
    settings = {
        **_workload(point, folder, warmup + seconds, seed),
        "LOADTEST_WARMUP_S": f"{warmup:g}",
        "LOADTEST_SLO_TTFT_S": f"{slo.ttft:g}",
        "LOADTEST_SLO_TPOT_S": f"{slo.tpot:g}",
        "LOADTEST_SLO_ITL_S": f"{slo.itl:g}",
    }
    headless.run(
        str(point),
        settings,
        folder,
        target=target,
        seconds=warmup + seconds,
        seed=seed,
        environment=environment,
        processes=processes,
    )


def _workload(point: Point, folder: Path, seconds: float, seed: int) -> dict[str, str]:
    if point.shape.prompts:
        file = folder / TRACE
        file.write_text(trace(point, seconds, seed))
        return {"LOADTEST_WORKLOAD": "trace", "LOADTEST_ARRIVALS": "trace", "LOADTEST_TRACE_FILE": str(file)}
    return {
        "LOADTEST_WORKLOAD": "random",
        "LOADTEST_ARRIVALS": "poisson",
        "LOADTEST_RATE": f"{point.rate:g}",
        "LOADTEST_INPUT_TOKENS": str(point.shape.streams.input),
        "LOADTEST_OUTPUT_TOKENS": str(point.shape.streams.output),
    }
