"""The producers of a run: one without the store, and two that share it, of which the second starts anew once."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from benchmarks.connector.topology import routes
from benchmarks.connector.topology.routes import OurInstance, Route
from benchmarks.connector.topology.servers import Blueprint, Place
from benchmarks.deadline import Deadline
from benchmarks.processes import Processes

PLAIN, FIRST, SECOND, ANEW = "plain", "first", "second", "second-anew"


@dataclass(frozen=True)
class Instances:
    """`variables` are more of the launcher's; `etcd` and `store` are host:port."""

    blueprint: Blueprint
    place: Place
    variables: Mapping[str, str]
    etcd: str
    store: str
    ports: Iterator[int]
    processes: Processes
    deadline: Deadline

    def start(self, names: Sequence[str]) -> dict[str, Route]:
        """By their names, once each is registered. Raises: CannotStart, OutOfTime."""
        started = routes.start([self._instance(name) for name in names], self.processes, self.deadline)
        return dict(zip(names, started, strict=True))

    def end(self, name: str) -> None:
        self.processes.end([name])

    def _instance(self, name: str) -> OurInstance:
        port, control_port = next(self.ports), next(self.ports)
        # Loads of every length are measured, also those that are not worth it.
        shared = {} if name == PLAIN else {"STORE_MASTER": self.store, "STORE_LOAD_MIN_TOKENS": "0"}
        variables = {**self.variables, **shared}
        launch = self.blueprint.ours(name, "producer", port, control_port, self.place, variables)
        return OurInstance(name, [launch], f"http://{self.place.host}:{port}", self.etcd)
