"""What the parts of one run share."""

from collections.abc import Iterator
from dataclasses import dataclass

from benchmarks.connector.options import Options
from benchmarks.connector.prompts import Prompts
from benchmarks.connector.topology.servers import Blueprint
from benchmarks.deadline import Deadline
from benchmarks.processes import Processes
from benchmarks.results import Results


@dataclass(frozen=True)
class Run:
    """`etcd` is its host:port; `ports` are free ones, each given out once."""

    options: Options
    blueprint: Blueprint
    etcd: str
    ports: Iterator[int]
    processes: Processes
    prompts: Prompts
    results: Results
    deadline: Deadline
