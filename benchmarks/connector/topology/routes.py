"""The ways a request can take: the single server, our pair or one of its kind alone, upstream's pair.

A contender knows its servers before they run, and its route as soon as they all answer.
"""

import json
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from benchmarks.deadline import Deadline
from benchmarks.processes import Launch, Processes
from connector.instance.registration import ETCD_AWAY
from stack import etcd
from stack.instances.record import PREFIX, Instance

PROBE_TIMEOUT_S = 2.0
POLL_S = 0.5


@dataclass(frozen=True)
class Route:
    """`prefill_url` is empty for a single server; `consumer_params` tell the consumer where its producer is."""

    name: str
    decode_url: str
    prefill_url: str = ""
    consumer_params: Mapping[str, Any] = field(default_factory=dict)


class Contender(Protocol):
    @property
    def launches(self) -> Sequence[Launch]: ...

    def route(self) -> Route | None:
        """None until every server of it answers."""


@dataclass(frozen=True)
class Single:
    launches: Sequence[Launch]
    url: str

    def route(self) -> Route | None:
        return Route("single", self.url) if _get(f"{self.url}/health") is not None else None


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
        producer = registered[self.prefill_url].kv_transfer
        return Route(self.name, self.decode_url, self.prefill_url, {"producer": producer})


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

    def route(self) -> Route | None:
        if any(_get(f"{url}/health") is None for url in (self.prefill_url, self.decode_url)):
            return None
        engines = json.loads(_get(f"{self.bootstrap_url}/query") or "{}")
        if not engines:
            return None
        engine = engines["0"]["engine_id"]  # of data-parallel rank 0, the only one
        params = {"do_remote_decode": False, "remote_engine_id": engine, "remote_bootstrap_addr": self.bootstrap_url}
        return Route(self.name, self.decode_url, self.prefill_url, params)


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
