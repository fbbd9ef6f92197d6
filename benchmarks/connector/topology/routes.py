"""The ways a request can take: the single server, our pair or one of its kind alone, upstream's pair.

A contender knows its servers before they run, and its route as soon as they all answer.
"""

import json
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from benchmarks.deadline import Deadline
from benchmarks.processes import Launch, Processes
from connector.instance.registration import ETCD_AWAY
from stack import etcd
from stack.instances.record import PREFIX, Instance

PROBE_TIMEOUT_S = 2.0
POLL_S = 0.5
T = TypeVar("T")


@dataclass(frozen=True)
class Way:
    """Between two engines. `producer_pin` and `consumer_pin` name them among their server's data-parallel ones, None
    where a server has one engine; `consumer_params` tell the consumer where its producer is."""

    consumer_pin: int | None = None
    producer_pin: int | None = None
    consumer_params: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Route:
    """`prefill_url` is empty for a single server. Requests take the `ways` in turn."""

    name: str
    decode_url: str
    prefill_url: str = ""
    ways: Sequence[Way] = (Way(),)


class Contender(Protocol):
    @property
    def launches(self) -> Sequence[Launch]: ...

    def route(self) -> Route | None:
        """None until every server of it answers."""


@dataclass(frozen=True)
class Single:
    launches: Sequence[Launch]
    url: str
    engines: int = 1

    def route(self) -> Route | None:
        if _get(f"{self.url}/health") is None:
            return None
        return Route("single", self.url, ways=[Way(pin) for pin in _pins(self.engines)])


@dataclass(frozen=True)
class OurPair:
    """Ready once both launchers have registered their instance, which is when it is healthy."""

    name: str
    launches: Sequence[Launch]
    prefill_url: str
    decode_url: str
    etcd: str

    def route(self) -> Route | None:
        registered = _registered(self.etcd)
        if not {self.prefill_url, self.decode_url} <= set(registered):
            return None
        producers, consumers = (registered[url].by_engine() for url in (self.prefill_url, self.decode_url))
        ways = [
            Way(consumer.pin, producer.pin, {"producer": producer.kv_transfer})
            for producer, consumer in _all_pairs(producers, consumers)
        ]
        return Route(self.name, self.decode_url, self.prefill_url, ways)


@dataclass(frozen=True)
class OurInstance:
    """One server of ours that is asked directly; ready once its launcher has registered it."""

    name: str
    launches: Sequence[Launch]
    url: str
    etcd: str

    def route(self) -> Route | None:
        return Route(self.name, self.url) if self.url in _registered(self.etcd) else None


@dataclass(frozen=True)
class UpstreamPair:
    """Ready once both servers are healthy and the producer has registered in its own bootstrap server."""

    name: str
    launches: Sequence[Launch]
    prefill_url: str
    decode_url: str
    bootstrap_url: str
    engines: int = 1

    def route(self) -> Route | None:
        if any(_get(f"{url}/health") is None for url in (self.prefill_url, self.decode_url)):
            return None
        engines = json.loads(_get(f"{self.bootstrap_url}/query") or "{}")
        if len(engines) < self.engines:
            return None
        common = {"do_remote_decode": False, "remote_bootstrap_addr": self.bootstrap_url}
        pins = _pins(self.engines)
        ways = [
            Way(consumer, producer, {**common, "remote_engine_id": engines[str(producer or 0)]["engine_id"]})
            for producer, consumer in _all_pairs(pins, pins)
        ]
        return Route(self.name, self.decode_url, self.prefill_url, ways)


def start(contenders: Sequence[Contender], processes: Processes, deadline: Deadline) -> list[Route]:
    """Start all servers at once and wait for all of them.

    Raises: CannotStart: one has ended; OutOfTime.
    """
    for contender in contenders:
        processes.start(contender.launches)
    routes: dict[int, Route] = {}
    while len(routes) < len(contenders):
        deadline.left()
        processes.check()
        time.sleep(POLL_S)
        for number, contender in enumerate(contenders):
            if number not in routes and (route := contender.route()):
                routes[number] = route
    return [routes[number] for number in range(len(contenders))]


def _pins(engines: int) -> list[int | None]:
    return list(range(engines)) if engines > 1 else [None]


def _all_pairs(producers: Sequence[T], consumers: Sequence[T]) -> list[tuple[T, T]]:
    """Every producer with every consumer, so that neighbours have others on both sides, as far as there are."""
    count = len(consumers)
    return [
        (producer, consumers[(at + shift) % count]) for shift in range(count) for at, producer in enumerate(producers)
    ]


def _registered(endpoint: str) -> dict[str, Instance]:
    """Instances by their URLs."""
    client = etcd.connect(endpoint)
    try:
        records = [Instance.model_validate_json(value) for value, _ in client.get_prefix(PREFIX)]
    except ETCD_AWAY:  # not answering in time, while all servers load at once
        return {}
    finally:
        client.close()
    return {record.url: record for record in records}


def _get(url: str) -> str | None:
    """Body of a 200 answer, None for anything else."""
    try:
        with urllib.request.urlopen(url, timeout=PROBE_TIMEOUT_S) as answer:
            return str(answer.read().decode())
    except (urllib.error.URLError, OSError, TimeoutError):
        return None
