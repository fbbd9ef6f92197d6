"""What `/metrics` shows. One registry a proxy, so that several can live in one test process."""

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from proxy.dispatch import ROLES, of_role
from proxy.errors import LegFailed, ProxyError, RejectedByInstance
from proxy.fleet import Fleet
from stack.instances import Role

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


class Metrics:
    def __init__(self, fleet: Fleet) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        registry.register(_FleetCollector(fleet))
        self.in_flight = Gauge("pd_proxy_requests_in_flight", "Client requests being served", registry=registry)
        self.requests = Counter(
            "pd_proxy_requests",
            "Client requests that have ended; status 499: the client left before its answer began",
            ("endpoint", "status", "outcome"),
            registry=registry,
        )
        self.ttft = Histogram(
            "pd_proxy_time_to_first_token_seconds",
            "From the request's arrival to the first chunk of a streamed answer",
            ("endpoint",),
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
        self.retries = Counter(
            "pd_proxy_retries", "Second tries on another pair, by the role that failed", ("role",), registry=registry
        )
        self.leg_failures = Counter(
            "pd_proxy_leg_failures", "Legs that failed, by cause", ("role", "cause"), registry=registry
        )

    def leg_failed(self, role: Role, error: BaseException) -> None:
        self.leg_failures.labels(role, _cause(error)).inc()


def _cause(error: BaseException) -> str:
    if isinstance(error, LegFailed):
        return error.cause
    if isinstance(error, RejectedByInstance):
        return "rejected"
    return "deadline" if isinstance(error, ProxyError) else "internal"


class _FleetCollector(Collector):
    """Read at each scrape, so that a vanished instance leaves no series behind."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet

    def collect(self) -> Iterator[GaugeMetricFamily]:
        view = self._fleet.view
        instances = GaugeMetricFamily("pd_proxy_instances", "Usable instances", labels=("role",))
        outstanding = GaugeMetricFamily(
            "pd_proxy_outstanding_requests", "Requests that an instance has in hand", labels=("role", "instance")
        )
        for role in ROLES:
            instances.add_metric((role,), len(of_role(view.usable, role)))
        for instance in view.instances:
            load = self._fleet.outstanding(instance.instance_id)
            outstanding.add_metric((instance.role, instance.instance_id), load)
        stale = GaugeMetricFamily("pd_proxy_discovery_stale", "1 while etcd is away and the last view is served")
        stale.add_metric((), view.stale_since is not None)
        yield from (instances, outstanding, stale)
