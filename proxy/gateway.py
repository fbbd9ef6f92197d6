"""What all requests share: the session to the instances, the fleet, the metrics, and the requests being served."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Protocol

from proxy.discovery import Discovery
from proxy.errors import ProxyError, ShuttingDown
from proxy.fleet import Fleet
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


@asynccontextmanager
async def open_gateway(settings: ProxySettings) -> AsyncIterator[Gateway]:
    """Follows etcd and keeps the session open while the context is."""
    fleet = Fleet()
    legs = Legs(settings)
    discovery = Discovery(settings.etcd_endpoint, fleet.update)
    discovery.start()
    try:
        yield Gateway(settings, fleet, Metrics(fleet), legs)
    finally:
        await discovery.stop()
        await legs.close()
