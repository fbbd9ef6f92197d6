"""How much load one process of the load generator can make before its own times go wrong.

Two loads, each of requests that arrive at a constant rate and raised step by step: long streams, which are chunks to
read, and short ones, which are requests to start. A step is within the limit if what was offered came, and neither
starts nor times are late; two steps in a row beyond it end the ramp.
"""

import numpy as np

from benchmarks.errors import RequestFailed
from benchmarks.loadtest.accuracy import about
from benchmarks.loadtest.comparison import compare
from benchmarks.loadtest.run import Run
from benchmarks.tables import Row

GAP_S = (0.04, 0.06)
TTFT_S = (0.04, 0.06)
MEAN_S = 0.05
LONG, SHORT = 64, 4  # events of a stream
WARM_UP_S = 5  # by then as many streams are open as there will be
# A gap of an answer is 20 ms or more; of that a tenth may be wrong. Times are taken in turn by one thread, so this is
# the first figure that shows its load.
LARGEST_ERROR_S = 0.002
LARGEST_START_DELAY_S = 0.01  # as in loadtest/figures/saturation.py
SMALLEST_SHARE = 0.98  # of what was offered
BEYOND_AT_MOST = 2


def measure(run: Run) -> None:
    """Adds a row for each step to the table `limit`."""
    options = run.options
    ramps = {
        "chunks": [(rate / LONG, LONG) for rate in options.chunk_rates],
        "streams": [(float(rate), SHORT) for rate in options.stream_rates],
    }
    for workers in options.workers:
        for kind, steps in ramps.items():
            beyond = 0
            for rate, events in steps:
                row = _step(run, workers, rate, events)
                run.results.add("limit", workers=workers, kind=kind, **row)
                run.results.write()
                beyond = 0 if row["within"] else beyond + 1
                if beyond == BEYOND_AT_MOST:
                    break
            print(f"limit: {kind} with {workers} workers done", flush=True)


def _step(run: Run, workers: int, rate: float, events: int) -> Row:
    offered = {"streams_per_s": rate, "chunks_per_s": rate * events}
    seconds = run.options.limit_seconds + WARM_UP_S
    arguments = ("--arrivals", "constant", "--rate", f"{rate:g}", "--warmup", str(WARM_UP_S))
    lengths = ("--workload", "random", "--input-tokens", "100", "--output-tokens", str(events))
    with run.scripted(TTFT_S, GAP_S) as server:
        try:
            load = run.load(server.url, seconds, *arguments, *lengths, "--run-time", f"{seconds}s", workers=workers)
        except RequestFailed as error:
            return {**offered, "within": False, "failed": str(error)}
        sent = server.sent()
    measured = [one for one in load.completed if WARM_UP_S <= one.scheduled < seconds]
    row = {**offered, **about(load), **compare(measured, sent).row()}
    row["came"] = len(measured) / (rate * run.options.limit_seconds)
    row["open"] = float(np.mean([one.ended - one.started for one in measured])) * rate if measured else 0.0
    return {**row, "within": within(row)}


def within(row: Row) -> bool:
    late, wrong = row["start_delay_s"], row["gap_error_s"]
    return bool(
        row["came"] >= SMALLEST_SHARE
        and not row["unmatched"]
        and late
        and wrong
        and late["p99"] <= LARGEST_START_DELAY_S
        and wrong["p99"] <= LARGEST_ERROR_S
    )
