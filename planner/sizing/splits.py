"""What a number of instances can be: all aggregated, or so many producers and the rest consumers."""

from dataclasses import dataclass

from planner.profile import Profile
from planner.simulation.deployment import Deployment
from planner.simulation.server import Server
from proxy.routing.dispatch import Policy
from stack.instances.record import Role


@dataclass(frozen=True)
class Split:
    """Instances by role."""

    producers: int
    consumers: int
    aggregated: int = 0

    def __str__(self) -> str:
        if self.aggregated:
            return f"{self.aggregated} aggregated"
        return f"{self.producers}P{self.consumers}D"

    @property
    def words(self) -> str:
        if self.aggregated:
            return _counted(self.aggregated, "aggregated server")
        return f"{_counted(self.producers, 'producer')} and {_counted(self.consumers, 'consumer')}"


def splits(instances: int) -> list[Split]:
    """All aggregated first, then from one producer to all but one consumer."""
    pairs = [Split(producers, instances - producers) for producers in range(1, instances)]
    return [Split(0, 0, instances), *pairs]


@dataclass(frozen=True)
class Variant:
    """What is simulated: a profile's instances over one transport, behind the proxy's settings.

    bandwidth: so many times the transport's. slower: steps take so many times as long.
    """

    profile: Profile
    policy: Policy
    transport: str | None = None
    bandwidth: float = 1.0
    slower: float = 1.0

    def deployment(self, split: Split) -> Deployment:
        server = self.profile.server(self.slower)
        counts: dict[Role, int] = {
            "prefill": split.producers,
            "decode": split.consumers,
            "aggregated": split.aggregated,
        }
        servers: dict[Role, tuple[int, Server]] = {role: (many, server) for role, many in counts.items() if many}
        transfer = self.profile.transfer(self.transport, self.bandwidth)
        return Deployment(servers, transfer, self.profile.constants, self.policy)


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
