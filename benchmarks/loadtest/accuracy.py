"""How exact the load test's times are with many streams at once, against a server whose delays are known."""

import math
from collections import Counter

from benchmarks.errors import RequestFailed
from benchmarks.loadtest.comparison import compare
from benchmarks.loadtest.run import Load, Run

TTFT_S = (0.1, 0.5)
GAP_S = (0.02, 0.08)
EVENTS = 64
MEAN_STREAM_S = sum(TTFT_S) / 2 + (EVENTS - 1) * sum(GAP_S) / 2
WARM_UP_S = math.ceil(2 * MEAN_STREAM_S)  # by then as many streams are open as there will be, each at another place


def measure(run: Run) -> None:
    """Adds a row for each round to the table `accuracy`, of users and of an open loop in turn."""
    options = run.options
    rate = options.streams / MEAN_STREAM_S
    ways = {
        "closed": ("--arrivals", "closed", "--users", str(options.streams), "--spawn-rate", f"{rate:g}"),
        "poisson": ("--arrivals", "poisson", "--rate", f"{rate:g}"),
    }
    for number in range(options.rounds):
        for arrivals, words in ways.items():
            with run.scripted(TTFT_S, GAP_S) as server:
                seconds = options.accuracy_seconds + WARM_UP_S
                arguments = (*words, "--run-time", f"{seconds}s", "--workload", "random", "--seed", str(number))
                lengths = ("--input-tokens", "100", "--output-tokens", str(EVENTS))
                try:
                    load = run.load(server.url, seconds, *arguments, *lengths)
                except RequestFailed as error:
                    run.results.add("accuracy", arrivals=arrivals, round=number, failed=str(error))
                else:
                    steady = [record for record in load.completed if record.scheduled >= WARM_UP_S]
                    figures = compare(steady, server.sent()).row()
                    run.results.add("accuracy", arrivals=arrivals, round=number, **about(load), **figures)
            run.results.write()
        print(f"accuracy: round {number + 1} of {options.rounds} done", flush=True)


def about(load: Load) -> dict[str, object]:
    """What a load test says of its own run."""
    summary, manifest = load.run.summary, load.run.manifest
    return {
        "errors": dict(Counter(record.error for record in load.records if record.error)),
        "cpu_share": manifest.cpu_share,
        "generator_limit": summary.generator_limit if summary else None,
    }
