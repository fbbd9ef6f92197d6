"""One headless run of the load test against a stack that is up."""

import sys
from collections.abc import Mapping
from pathlib import Path

from benchmarks.errors import CannotStart
from benchmarks.processes import Launch, Processes
from benchmarks.serving.mixture import trace
from benchmarks.serving.plan import Slo
from benchmarks.serving.points import Lengths, Point, Shape
from benchmarks.serving.stack_side import Target
from stack.configuration.settings import REPOSITORY

# Of a run beyond its load: its start, the streams that are still open, the reports.
MARGIN_S = 180.0
DRAIN_S = 60
TRACE = "trace.jsonl"
LOAD_TEST = (sys.executable, "-m", "loadtest")
# Before the first measurement of a stack: connections are made, and what is made at the first request.
FIRST_REQUESTS = Point(Shape(Lengths(160, 8)), 1.0)
FIRST_REQUESTS_S = 6.0
REQUESTS_FAILED = 1  # exit status: a result like any other, if there is one


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
        "LOADTEST_TARGET": target.url,
        "LOADTEST_TOKENIZER": target.tokenizer,
        "LOADTEST_SEED": str(seed),
        "LOADTEST_WARMUP_S": f"{warmup:g}",
        "LOADTEST_DRAIN_S": str(DRAIN_S),
        "LOADTEST_SLO_TTFT_S": f"{slo.ttft:g}",
        "LOADTEST_SLO_TPOT_S": f"{slo.tpot:g}",
        "LOADTEST_SLO_ITL_S": f"{slo.itl:g}",
        "LOADTEST_RUN_DIR": str(folder),
    }
    command = (*LOAD_TEST, "--headless", "--run-time", f"{round(warmup + seconds)}s")
    processes.start([Launch("loadtest", command, {**environment, **settings}, REPOSITORY)])
    status = processes.wait("loadtest", warmup + seconds + DRAIN_S + MARGIN_S)
    if status not in (0, REQUESTS_FAILED) or not (folder / "run.json").is_file():
        raise CannotStart(
            f"the load test ended with status {status} at {point}; the end of what it said:\n"
            + processes.tail("loadtest")
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
