"""What all requests share: the session to the instances, the fleet, the bounds, and the requests being served."""

import asyncio
from collections.abc import AsyncIterator, Callable, Set
from contextlib import asynccontextmanager, suppress
from typing import Protocol

from proxy.errors import NoInstance, ProxyError, ShuttingDown
from proxy.exchange.legs import Legs
from proxy.http.signs_of_life import SignsOfLife, Silent
from proxy.instances.discovery import Discovery
from proxy.instances.gauges import Gauges
from proxy.instances.instance_session import open_session
from proxy.instances.peers import Peers, Teller
from proxy.ratio.watch import Watch
from proxy.request.random_id import random_id
from proxy.routing.admission import Admission, AdmissionLimits, Prefills
from proxy.routing.dispatch import Demand, Policy, Route
from proxy.routing.fleet import Fleet, View
from proxy.routing.prefill_order import FACTORS
from proxy.routing.token_estimate import TokenEstimate
from proxy.settings import ProxySettings
from proxy.telemetry.autoscaling import AutoscalingCollector
from proxy.telemetry.gen_ai import Bounds
from proxy.telemetry.metrics import Metrics
from proxy.telemetry.tracing import Tracing
from proxy.verdict.breakers import Breakers
from proxy.verdict.checks import Checks
from proxy.verdict.circuit import BreakerLimits
from proxy.verdict.question import Questions
from stack.instances.record import Instance


class BeingServed(Silent, Protocol):
    def abort(self, error: ProxyError) -> None: ...


class Gateway:
    """Lives while the app serves."""

    def __init__(self, settings: ProxySettings) -> None:
        self.settings = settings
        self.loop = asyncio.get_running_loop()  # kept: to ask for it asks the kernel for the process's id each time
        policy = Policy(settings.proxy_local_prompt_tokens, settings.proxy_no_producer)
        self.fleet = Fleet(policy, order_factor=FACTORS[settings.proxy_prefill_order])
        own_id = random_id()  # by which a proxy knows itself among its peers
        self.peers = Peers(settings.peers, own_id, self.fleet.others_have)
        self.teller = Teller(own_id, self.fleet.in_hand, lambda: self.draining)
        self._questions = Questions(settings)
        self._checks = Checks(
            self._questions.ask,
            lambda: self.fleet.view.instances,
            lambda role, finding: self.metrics.checks.labels(role, finding).inc(),
        )
        limits = BreakerLimits(settings.proxy_breaker_failures, settings.proxy_breaker_cooldown_s)
        self.breakers = Breakers(limits, self._checks.consider)
        self.admission = Admission(
            AdmissionLimits(
                settings.proxy_max_running_requests,
                settings.proxy_max_queued_requests,
                settings.proxy_max_running_tokens,
                settings.proxy_max_queued_tokens,
            )
        )
        self.estimate = TokenEstimate()
        self.legs = Legs(settings)
        bounds = Bounds(settings.proxy_goodput_ttft_s, settings.proxy_goodput_tpot_s)
        self.gauges = Gauges(lambda connector: open_session(settings, connector))
        self._prefills: dict[str, Prefills] = {}
        autoscaling = AutoscalingCollector(self.fleet, self._prefills, self.gauges, self.breakers.blocked)
        self.metrics = Metrics(self.fleet, self.breakers, self.admission, bounds, autoscaling, self.peers)
        self.watch = Watch(self.fleet, self._prefills, self.gauges, self.metrics.history)
        self.tracing = Tracing(settings)
        self.being_served: set[BeingServed] = set()
        self.signs = SignsOfLife(self.loop, self.being_served, settings.proxy_stream_keepalive_s)
        self.draining = False

    def update(self, view: View) -> None:
        gone = {instance.instance_id for instance in self.fleet.view.instances}
        gone -= {instance.instance_id for instance in view.instances}
        self.fleet.update(view)
        self.breakers.forget(gone)
        for name in gone:
            self._prefills.pop(name, None)

    def prefills(self, instance: Instance) -> Prefills:
        prefills = self._prefills.get(instance.instance_id)
        if prefills is None:
            prefills = self._prefills[instance.instance_id] = Prefills()
        return prefills

    def route(self, demand: Demand, avoid: set[str]) -> Route:
        """Which instances take a request, without those whose circuit is open.

        What has failed is avoided with all engines of its server, and where there is no other server, alone.
        Raises: ModelNotFound; NoInstance: says when the first open circuit is asked again; SloUnreachable.
        """
        blocked = self.breakers.blocked()
        try:
            route = self._route_past(demand, avoid, blocked)
        except NoInstance as nobody:
            if blocked:
                raise nobody.while_blocked(blocked, self.breakers.retry_after(blocked, self.loop.time())) from None
            raise
        if self.settings.proxy_ttft_slo_s is not None and route.prefill_tokens:
            prefills = self.prefills(route.producer or route.consumer)
            ahead = self.fleet.order(route.producer).ahead(route.prefill_tokens) if route.producer else None
            prefills.refuse_late_first_token(self.settings.proxy_ttft_slo_s, route.prefill_tokens, ahead)
        return route

    def _route_past(self, demand: Demand, failed: set[str], blocked: Set[str]) -> Route:
        engines = self.fleet.engines_beside(failed) if failed else failed
        if engines > failed:
            with suppress(NoInstance):
                return self.fleet.route(demand, engines | blocked)
        return self.fleet.route(demand, failed | blocked)

    async def close(self) -> None:
        self.watch.close()
        self.metrics.close()
        await self.peers.close()
        await self.gauges.close()
        await self._checks.close()
        await self._questions.close()
        await self.legs.close()
        await self.tracing.close()

    def abort_all(self) -> None:
        """Ends what is still running, each with an answer that says so."""
        for exchange in tuple(self.being_served):
            exchange.abort(ShuttingDown())


class FollowsInstances(Protocol):
    """Calls back with every new view between `start` and `stop`."""

    def start(self) -> None: ...

    async def stop(self) -> None: ...


Follow = Callable[[str, Callable[[View], None]], FollowsInstances]


@asynccontextmanager
async def open_gateway(settings: ProxySettings, follow: Follow = Discovery) -> AsyncIterator[Gateway]:
    """Follows the instances and keeps the session open while the context is. `follow` gets etcd's endpoint."""
    gateway = Gateway(settings)
    discovery = follow(settings.etcd_endpoint, gateway.update)
    discovery.start()
    gateway.peers.start()
    try:
        yield gateway
    finally:
        gateway.signs.close()
        await discovery.stop()
        await gateway.close()
