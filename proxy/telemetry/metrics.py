"""What `/metrics` shows. One registry a proxy, so that several can live in one test process.

With several workers (PROMETHEUS_MULTIPROC_DIR) the one that is asked adds up what all have counted; instances, their
circuits and the memory of the process are then left out, because each worker has its own. What an autoscaler goes by
is there (`worker_gauges.py`).
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar, get_args

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
    multiprocess,
)
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from proxy.connection.refusal import REFUSED
from proxy.errors import LegFailed, ProxyError, RejectedByInstance
from proxy.instances.peers import Peers
from proxy.routing.admission import Admission
from proxy.routing.fleet import Fleet
from proxy.routing.pairing import of_role
from proxy.telemetry.autoscaling import AutoscalingCollector
from proxy.telemetry.gen_ai import Bounds, GenAiMetrics
from proxy.telemetry.history import History
from proxy.telemetry.request_facts import RequestFacts
from proxy.telemetry.worker_gauges import WorkerGauges
from proxy.verdict.breakers import Breakers
from stack.instances.record import Role

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)

Metric = TypeVar("Metric", Counter, Histogram)


class Metrics:
    """Made in a running loop; ends with `close`."""

    def __init__(
        self,
        fleet: Fleet,
        breakers: Breakers,
        admission: Admission,
        bounds: Bounds,
        autoscaling: AutoscalingCollector,
        peers: Peers,
    ) -> None:
        self.history = History()
        self._registry = registry = CollectorRegistry()
        self._known: dict[tuple[Any, ...], Any] = {}
        ProcessCollector(registry=registry)
        for collector in (_FleetCollector(fleet, breakers, admission, peers), REFUSED, autoscaling):
            registry.register(collector)
        self._of_workers = WorkerGauges(autoscaling) if _workers_folder() else None
        self.gen_ai = GenAiMetrics(registry, bounds, lambda: fleet.view.served_names)
        self.in_flight = Gauge(
            "pd_proxy_requests_in_flight",
            "Client requests being served or waiting",
            registry=registry,
            multiprocess_mode="livesum",
        )
        self.requests = Counter(
            "pd_proxy_requests",
            "Client requests that have ended, by the name of the key; status 499: the client left before its answer",
            ("endpoint", "status", "outcome", "client"),
            registry=registry,
        )
        self.dispatched = Counter(
            "pd_proxy_dispatched",
            "Tries, by the path that was chosen and the reason for it",
            ("path", "reason"),
            registry=registry,
        )
        self.ttft = Histogram(
            "pd_proxy_time_to_first_token_seconds",
            "From the request's arrival to the first chunk of a streamed answer",
            ("endpoint", "path"),
            buckets=_SECONDS,
            registry=registry,
        )
        self.phases = Histogram(
            "pd_proxy_phase_seconds",
            "Phases that add up to the time to first token of a streamed answer",
            ("phase", "path"),
            buckets=_SECONDS,
            registry=registry,
        )
        self.duration = Histogram(
            "pd_proxy_request_duration_seconds",
            "From the request's arrival to the end of its answer",
            ("endpoint",),
            buckets=_SECONDS,
            registry=registry,
        )
        self.kv_bytes = Counter(
            "pd_proxy_kv_bytes", "KV cache moved for answered requests, in bytes", ("transport",), registry=registry
        )
        self.kv_tokens = Counter(
            "pd_proxy_kv_tokens", "KV cache moved for answered requests, in tokens", ("transport",), registry=registry
        )
        self.first_tokens = Counter(
            "pd_proxy_first_tokens",
            "Answered requests of two legs, by whose token is the first",
            ("by",),
            registry=registry,
        )
        self.transfers = Counter(
            "pd_proxy_transfers",
            "Answered requests of two legs; recomputed: the cache did not arrive, unknown: the consumer did not say",
            ("result",),
            registry=registry,
        )
        for result in ("moved", "recomputed", "unknown"):
            self.transfers.labels(result)  # at 0: `increase` does not see the first value of a new series
        self.store_tokens = Counter(
            "pd_proxy_store_tokens",
            "Tokens of prompts of answered requests that producers loaded from a KV store",
            registry=registry,
        )
        self.store_prompts = Counter(
            "pd_proxy_store_prompts",
            "Prompts of answered requests of producers with a KV store; hit: a part of it was loaded from there",
            ("result",),
            registry=registry,
        )
        self.retries = Counter(
            "pd_proxy_retries", "Second tries on other instances, by the role that failed", ("role",), registry=registry
        )
        self.leg_failures = Counter(
            "pd_proxy_leg_failures", "Legs that failed, by cause", ("role", "cause"), registry=registry
        )
        self.checks = Counter(
            "pd_proxy_checks",
            "The proxy's own questions to instances in doubt; result: well, alive (no token now), silent or ill",
            ("role", "result"),
            registry=registry,
        )

    def leg_failed(self, role: Role, error: BaseException) -> None:
        cause = _cause(error)
        self.leg_failures.labels(role, cause).inc()
        self.history.leg_failed(cause)

    def chosen(self, facts: RequestFacts) -> None:
        """A route, for one more try."""
        self._series(self.dispatched, facts.path or "none", facts.reason).inc()

    def ended(self, endpoint: str, status: int, outcome: str, client: str, seconds: float) -> None:
        self._series(self.requests, endpoint, str(status), outcome, client).inc()
        self._series(self.duration, endpoint).observe(seconds)

    def answered(self, facts: RequestFacts, endpoint: str, is_stream: bool) -> None:
        """The first chunk is here, or the whole answer."""
        if is_stream:
            path = facts.path or "none"
            self._series(self.ttft, endpoint, path).observe(facts.ttft_s or 0.0)
            for phase, seconds in facts.phases.items():
                self._series(self.phases, phase, path).observe(seconds)

    def exposition(self) -> bytes:
        """All series in Prometheus's text format."""
        folder = _workers_folder()
        if folder is None or self._of_workers is None:
            return generate_latest(self._registry)
        self._of_workers.write()
        for pid in {int(file.stem.rpartition("_")[2]) for file in Path(folder).glob("gauge_live*_*.db")}:
            if not Path(f"/proc/{pid}").exists():
                multiprocess.mark_process_dead(pid, folder)  # type: ignore[no-untyped-call]
        together = CollectorRegistry()
        multiprocess.MultiProcessCollector(together, folder)  # type: ignore[no-untyped-call]
        return generate_latest(together)

    def close(self) -> None:
        if self._of_workers is not None:
            self._of_workers.close()

    def _series(self, metric: Metric, *labels: str) -> Metric:
        """As `labels`, remembered: looking a series up costs as much as counting in it."""
        known: Metric | None = self._known.get((metric, *labels))
        if known is None:
            known = self._known[(metric, *labels)] = metric.labels(*labels)
        return known

    def moved(self, facts: RequestFacts) -> None:
        """An answer is over, well or not."""
        if facts.path != "disaggregated":
            return
        stored = facts.attempt.store_tokens if facts.attempt else None
        if stored is not None:
            self.store_tokens.inc(stored)
            self._series(self.store_prompts, "hit" if stored else "miss").inc()
        if first := facts.transfer.get("first_token"):
            self._series(self.first_tokens, first).inc()
        if "bytes" not in facts.transfer:
            self._series(self.transfers, "unknown").inc()
        elif not facts.transfer["bytes"]:
            self.transfers.labels("recomputed").inc()
        else:
            transport = facts.transfer["transport"]
            self._series(self.transfers, "moved").inc()
            self._series(self.kv_bytes, transport).inc(facts.transfer["bytes"])
            self._series(self.kv_tokens, transport).inc(facts.transfer["tokens"])


def _workers_folder() -> str | None:
    """Where several workers keep what each has counted."""
    return os.environ.get("PROMETHEUS_MULTIPROC_DIR")


def _cause(error: BaseException) -> str:
    if isinstance(error, LegFailed):
        return error.cause
    if isinstance(error, RejectedByInstance):
        return "rejected"
    return "deadline" if isinstance(error, ProxyError) else "internal"


class _FleetCollector(Collector):
    """Read at each scrape, so that a vanished instance leaves no series behind."""

    def __init__(self, fleet: Fleet, breakers: Breakers, admission: Admission, peers: Peers) -> None:
        self._peers = peers
        self._fleet = fleet
        self._breakers = breakers
        self._admission = admission

    def collect(self) -> Iterator[GaugeMetricFamily]:
        view, names = self._fleet.view, ("role", "instance")
        instances = GaugeMetricFamily("pd_proxy_instances", "Usable instances", labels=("role",))
        requests = GaugeMetricFamily(
            "pd_proxy_outstanding_requests", "Requests that an instance has in hand", labels=names
        )
        tokens = GaugeMetricFamily("pd_proxy_outstanding_tokens", "Tokens that an instance has in hand", labels=names)
        circuits = GaugeMetricFamily(
            "pd_proxy_circuit_closed", "0 while an instance is left alone after failures", labels=names
        )
        doubts = GaugeMetricFamily(
            "pd_proxy_instance_in_doubt",
            "1 while an instance in use has yet to answer the proxy's question",
            labels=names,
        )
        for role in get_args(Role):
            instances.add_metric((role,), len(of_role(view.usable, role)))
        for instance in view.instances:
            labels = (instance.role, instance.instance_id)
            requests.add_metric(labels, self._fleet.outstanding(instance.instance_id))
            tokens.add_metric(labels, self._fleet.outstanding_tokens(instance.instance_id))
            circuits.add_metric(labels, self._breakers.state(instance.instance_id) == "closed")
            doubts.add_metric(labels, self._breakers.in_doubt(instance.instance_id))
        stale = GaugeMetricFamily("pd_proxy_discovery_stale", "1 while etcd is away and the last view is served")
        stale.add_metric((), view.stale_since is not None)
        queued = GaugeMetricFamily("pd_proxy_queued_requests", "Requests that wait for a place")
        queued.add_metric((), self._admission.queued_requests)
        peers = GaugeMetricFamily("pd_proxy_peers", "Other proxies that have told of late what they have in hand")
        peers.add_metric((), self._peers.heard)
        yield from (peers, instances, requests, tokens, circuits, doubts, stale, queued)
