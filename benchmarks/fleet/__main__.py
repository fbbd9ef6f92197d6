"""Measures proxies before a large fleet, and writes the results: python -m benchmarks.fleet routes discovery proxy

It starts everything itself and ends it again; docs/benchmarks/README.md says more.
"""

import re
import signal
import sys
from pathlib import Path

from benchmarks import etcd_server, program
from benchmarks.deadline import Deadline
from benchmarks.fleet import discovery, page, peers, routes, whole_proxy
from benchmarks.fleet.options import Options, parse
from benchmarks.fleet.run import Run
from benchmarks.ports import free_ports
from benchmarks.processes import Processes
from benchmarks.results import Results
from stack.host import machine

DISTRIBUTIONS = re.compile(r"quart|aiohttp|uvicorn|uvloop|pydantic|grpcio|etcd.distro", re.IGNORECASE)
MEASUREMENTS = {
    "routes": routes.measure,
    "discovery": discovery.measure,
    "proxy": whole_proxy.measure,
    "peers": peers.measure,
}


def main() -> int:
    options = parse(sys.argv[1:])
    signal.signal(signal.SIGTERM, program.end)
    results = Results(options.out, program.name(("fleet", *options.measurements)), _about(options), page.render)

    def measure(scratch: Path, processes: Processes) -> None:
        deadline, ports = Deadline(options.time_limit), free_ports()
        binary = etcd_server.find(options.etcd)
        etcd = etcd_server.start(binary, scratch / "etcd", "127.0.0.1", ports, processes, deadline)
        run = Run(options, etcd, ports, scratch, processes, results, deadline)
        for measurement in options.measurements:
            MEASUREMENTS[measurement](run)

    return program.measure_and_write(results, options.logs, measure)


def _about(options: Options) -> dict[str, object]:
    return {
        **program.about("benchmarks.fleet", "A large fleet"),
        "machine": machine.hardware(),
        "versions": machine.versions(options.commit, DISTRIBUTIONS),
        "settings": {
            name: getattr(options, name) for name in ("instances", "routes", "changes", "requests", "seconds")
        },
    }


if __name__ == "__main__":
    sys.exit(main())
