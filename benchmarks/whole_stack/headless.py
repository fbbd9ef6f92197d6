"""One headless run of the load test against a stack that is up."""

import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.errors import CannotStart
from benchmarks.processes import Launch, Processes
from benchmarks.whole_stack.stack_side import Target
from stack.configuration.settings import REPOSITORY

# Of a run beyond its load: its start, the streams that are still open, the reports.
MARGIN_S = 180.0
DRAIN_S = 60
LOAD_TEST = (sys.executable, "-m", "loadtest")
REQUESTS_FAILED = 1  # exit status: a result like any other, if there is one
# Before the first measurement of a stack: connections are made, and what is made at the first request.
FIRST_REQUESTS = {
    "LOADTEST_WORKLOAD": "random",
    "LOADTEST_ARRIVALS": "poisson",
    "LOADTEST_RATE": "1",
    "LOADTEST_INPUT_TOKENS": "160",
    "LOADTEST_OUTPUT_TOKENS": "8",
}
FIRST_REQUESTS_S = 6.0


def run(
    what: str,
    settings: Mapping[str, str],
    folder: Path,
    *,
    target: Target,
    seconds: float,
    seed: int,
    environment: Mapping[str, str],
    processes: Processes,
    options: Sequence[str] = (),
) -> None:
    """Leaves run.json and requests.jsonl in `folder`. Raises: CannotStart: it has not.

    `what` names the run, `settings` and `options` are more of the load test's; `seconds`: of load, warm-up included.
    """
    told = {
        **settings,
        "LOADTEST_TARGET": target.url,
        "LOADTEST_TOKENIZER": target.tokenizer,
        "LOADTEST_SEED": str(seed),
        "LOADTEST_DRAIN_S": str(DRAIN_S),
        "LOADTEST_RUN_DIR": str(folder),
    }
    command = (*LOAD_TEST, "--headless", "--run-time", f"{round(seconds)}s", *options)
    processes.start([Launch("loadtest", command, {**environment, **told}, REPOSITORY)])
    status = processes.wait("loadtest", seconds + DRAIN_S + MARGIN_S)
    if status not in (0, REQUESTS_FAILED) or not (folder / "run.json").is_file():
        raise CannotStart(
            f"the load test ended with status {status} at {what}; the end of what it said:\n"
            + processes.tail("loadtest")
        )


def first_requests(
    folder: Path,
    *,
    target: Target,
    seed: int,
    environment: Mapping[str, str],
    processes: Processes,
    seconds: float = FIRST_REQUESTS_S,
) -> None:
    """Of a stack that has just started; `folder` is emptied. Raises: CannotStart."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    run(
        "the first requests",
        FIRST_REQUESTS,
        folder.resolve(),
        target=target,
        seconds=seconds,
        seed=seed,
        environment=environment,
        processes=processes,
    )
