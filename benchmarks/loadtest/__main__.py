"""Whether the load test can be believed: python -m benchmarks.loadtest accuracy limit agreement

It starts everything itself and ends it again, but uses a stack that runs; docs/benchmarks/README.md says more.
"""

import re
import resource
import signal
import sys
from pathlib import Path

from benchmarks import program
from benchmarks.deadline import Deadline
from benchmarks.loadtest import accuracy, agreement, limit, page
from benchmarks.loadtest.options import Options, parse
from benchmarks.loadtest.run import Run
from benchmarks.ports import free_ports
from benchmarks.processes import Processes
from benchmarks.results import Results
from stack.configuration import env_file
from stack.host import machine

DISTRIBUTIONS = re.compile(r"locust|gevent|geventhttpclient|uvloop|httptools", re.IGNORECASE)
MEASUREMENTS = {"accuracy": accuracy.measure, "limit": limit.measure, "agreement": agreement.measure}


def main() -> int:
    options = parse(sys.argv[1:])
    env_file.apply_or_exit()
    signal.signal(signal.SIGTERM, program.end)
    # Thousands of streams are more files than a shell allows by default; what is started here inherits it.
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    name = program.name(("loadtest", *options.measurements))
    results = Results(options.out, name, _about(options), page.render)

    def measure(scratch: Path, processes: Processes) -> None:
        run = Run(options, free_ports(), scratch, processes, results, Deadline(options.time_limit))
        for measurement in options.measurements:
            MEASUREMENTS[measurement](run)

    return program.measure_and_write(results, options.logs, measure)


def _about(options: Options) -> dict[str, object]:
    return {
        **program.about("benchmarks.loadtest", "Whether the load test can be believed"),
        "machine": machine.hardware(),
        "versions": machine.versions(options.commit, DISTRIBUTIONS),
        "settings": {name: value for name, value in vars(options).items() if isinstance(value, int | float)},
    }


if __name__ == "__main__":
    sys.exit(main())
