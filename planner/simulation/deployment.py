"""Which instances there are, what they cost, and the proxy's own view of them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from planner.simulation.costs import Constants, TransferCosts
from planner.simulation.server import Server
from proxy.routing.dispatch import SPLIT_ALL, Policy
from proxy.routing.fleet import BLOCKS_REMEMBERED, Fleet, View
from proxy.routing.prefill_order import FACTORS
from stack.instances.record import Instance as Record
from stack.instances.record import Role

MODEL = "simulated"
AT_ONCE = TransferCosts()
NO_DELAYS = Constants()


@dataclass(frozen=True)
class Deployment:
    """Servers by role, each with how many there are; and the settings of the proxy before them."""

    servers: Mapping[Role, tuple[int, Server]]
    transfer: TransferCosts = AT_ONCE
    constants: Constants = NO_DELAYS
    policy: Policy = SPLIT_ALL
    order_factor: int = FACTORS["shortest"]
    blocks_remembered: int = BLOCKS_REMEMBERED
    names: Mapping[str, Server] = field(init=False)

    def __post_init__(self) -> None:
        names = {f"{role}-{number}": server for role, (many, server) in self.servers.items() for number in range(many)}
        object.__setattr__(self, "names", names)

    def fleet(self, clock: Callable[[], float]) -> Fleet:
        """Args: clock: the time of the simulation, in seconds."""
        fleet = Fleet(self.policy, self.blocks_remembered, self.order_factor, clock)
        records = [_record(role, number) for role, (many, _) in self.servers.items() for number in range(many)]
        fleet.update(View(tuple(records), revision=1))
        return fleet


def _record(role: Role, number: int) -> Record:
    return Record(
        role=role,
        instance_id=f"{role}-{number}",
        url=f"http://{role}-{number}",
        served_models=(MODEL,),
        model=MODEL,
        max_model_len=1 << 20,
        block_size=16,
        dtype="bfloat16",
        tensor_parallel_size=1,
        fingerprint="same",
        kv_transfer={},
        vllm_version="",
        connector_version="",
        started_at=0.0,
    )
