"""The records of a run, as its requests end.

`add` takes a record of this process. On a worker they wait until its next report takes them to the master; on the
master, or without workers, each goes to the listeners at once: the run's file, which keeps all of them, and the live
tab. In memory stay the newest only, so that a run of many hours needs no more than one of minutes.
"""

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from pydantic import TypeAdapter

from loadtest.figures.record import RequestRecord

KEPT_IN_MEMORY = 10_000  # records; at 100 tokens an answer about 40 MB
_AS_PLAIN: TypeAdapter[list[RequestRecord]] = TypeAdapter(list[RequestRecord])

Listener = Callable[[Sequence[RequestRecord]], None]


class Collector:
    """records: the newest of the run, in the order in which they came."""

    def __init__(self) -> None:
        self.records: deque[RequestRecord] = deque(maxlen=KEPT_IN_MEMORY)
        self._listeners: list[Listener] = []

    def subscribe(self, listener: Listener) -> None:
        """`listener` is called with every new batch of records of this and all later runs."""
        self._listeners.append(listener)

    def begin(self) -> None:
        """A new run."""
        self.records.clear()

    def add(self, record: RequestRecord) -> None:
        self._take([record])

    def receive(self, report: Iterable[dict[str, Any]]) -> None:
        """What `Outbox.empty` gave on a worker."""
        self._take(_AS_PLAIN.validate_python(list(report)))

    def _take(self, records: Sequence[RequestRecord]) -> None:
        if records:
            self.records.extend(records)
            for listener in self._listeners:
                listener(records)


class Outbox(Collector):
    """A worker's: keeps every record until a report to the master takes it."""

    def __init__(self) -> None:
        super().__init__()
        self._waiting: list[RequestRecord] = []

    def add(self, record: RequestRecord) -> None:
        self._waiting.append(record)

    def empty(self) -> list[dict[str, Any]]:
        """Everything since the last call, as msgpack can carry it."""
        waiting, self._waiting = self._waiting, []
        plain: list[dict[str, Any]] = _AS_PLAIN.dump_python(waiting, exclude_defaults=True)
        return plain
