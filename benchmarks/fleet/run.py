"""What the parts of one run share."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.deadline import Deadline
from benchmarks.fleet.options import Options
from benchmarks.processes import Processes
from benchmarks.results import Results


@dataclass(frozen=True)
class Run:
    """`etcd` is its host:port; `ports` are free ones, each given out once; `scratch` ends with the run."""

    options: Options
    etcd: str
    ports: Iterator[int]
    scratch: Path
    processes: Processes
    results: Results
    deadline: Deadline
