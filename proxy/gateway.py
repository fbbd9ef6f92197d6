"""What all requests share: the session to the instances, the fleet, the metrics, and the requests being served."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Protocol

from proxy.discovery import Discovery
from proxy.errors import ProxyError, ShuttingDown
from proxy.fleet import Fleet, View
from proxy.legs import Legs
from proxy.metrics import Metrics
from proxy.settings import ProxySettings


class Abortable(Protocol):
    def abort(self, error: ProxyError) -> None: ...


@dataclass
class Gateway:
    settings: ProxySettings
    fleet: Fleet
    metrics: Metrics
    legs: Legs
    being_served: set[Abortable] = field(default_factory=set)
    draining: bool = False

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
    fleet = Fleet()
    legs = Legs(settings)
    discovery = follow(settings.etcd_endpoint, fleet.update)
    discovery.start()
    try:
        yield Gateway(settings, fleet, Metrics(fleet), legs)
    finally:
        await discovery.stop()
        await legs.close()
