"""Measures what proxies cost and writes the results: python -m benchmarks.proxy latency throughput chunks memory

It starts everything itself and ends it again; docs/benchmarks/README.md says more.
"""

import re
import resource
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks import etcd_server, program
from benchmarks.deadline import Deadline
from benchmarks.errors import BenchmarkError
from benchmarks.ports import free_ports
from benchmarks.processes import Processes
from benchmarks.proxy import cpus
from benchmarks.proxy.cpus import Layout
from benchmarks.proxy.measurements import chunks, latency, memory, profile, throughput
from benchmarks.proxy.options import Options, parse
from benchmarks.proxy.proxies import peers
from benchmarks.proxy.proxies.peers import Peer
from benchmarks.proxy.report import page
from benchmarks.proxy.run import Run
from benchmarks.proxy.upstreams.upstream import LOOPBACK
from benchmarks.results import Results
from stack.host import machine

DISTRIBUTIONS = re.compile(r"quart|aiohttp|uvicorn|uvloop|httptools|hypercorn|etcd.distro", re.IGNORECASE)
MEASUREMENTS = {
    "latency": latency.measure,
    "throughput": throughput.measure,
    "chunks": chunks.measure,
    "memory": memory.measure,
    "profile": profile.measure,
}
MOST_WORKERS = 2


def main() -> int:
    options = parse(sys.argv[1:])
    signal.signal(signal.SIGTERM, program.end)
    # Thousands of streams are more files than a shell allows by default; what is started here inherits it.
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    layout = cpus.layout(cpus.cores(), MOST_WORKERS)
    try:
        compared = peers.peers(options)
    except BenchmarkError as error:
        print(f"benchmark: {error}", file=sys.stderr)
        return 1
    name = program.name(("proxy", *options.measurements))
    results = Results(options.out, name, _about(options, compared, layout), page.render)

    def measure(scratch: Path, processes: Processes) -> None:
        deadline, ports = Deadline(options.time_limit), free_ports()
        binary = etcd_server.find(options.etcd)
        etcd = etcd_server.start(binary, scratch / "etcd", LOOPBACK, ports, processes, deadline)
        run = Run(options, layout, compared, etcd, ports, scratch, processes, results, deadline)
        for measurement in options.measurements:
            MEASUREMENTS[measurement](run)

    return program.measure_and_write(results, options.logs, measure)


def _about(options: Options, compared: Sequence[Peer], layout: Layout) -> dict[str, object]:
    return {
        **program.about("benchmarks.proxy", "What a proxy costs"),
        "machine": {**machine.hardware(), "CPUs": layout.describe()},
        "versions": {
            **machine.versions(options.commit, DISTRIBUTIONS),
            **{peer.name: peer.version for peer in compared if peer.version},
        },
        "settings": {
            name: value
            for name, value in vars(options).items()
            if isinstance(value, int | float) or name in ("streams", "connections", "chunk_intervals_ms", "ours_env")
        },
    }


if __name__ == "__main__":
    sys.exit(main())
