"""Several proxies before one fleet, in simulated time: each has the proxy's own code, and knows what it has been told.

Producers compute step by step in the order of the numbers that the proxies gave, consumers decode as in
`fleets.py`. A request comes to a proxy at random, as a load balancer spreads connections, or to that of its
conversation. What the others have in hand is told every so many seconds, or never.
"""

import random
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

from benchmarks.dispatch.fleets import Hardware
from benchmarks.dispatch.prefill_order import Scheduling
from planner.simulation.clock import Clock
from planner.simulation.deployment import Deployment
from planner.simulation.engine.instance import Instance
from planner.simulation.exchange import Exchange, World
from planner.simulation.machine import Machine
from planner.simulation.server import Server
from planner.trace import Arrival
from proxy.routing.dispatch import IDLE, Load
from proxy.routing.prefill_order import FACTORS
from stack.instances.record import Role

Spread = Literal["random", "conversation"]
FACTOR = FACTORS["shortest"]
# A conversation's prompts have these blocks in common, and those of others have not: the first ones are a system's.
CONVERSATION_BLOCK = 8


@dataclass(frozen=True)
class Setup:
    """told_every_s: how old news of the others may be, None: there is none."""

    proxies: int
    spread: Spread = "random"
    told_every_s: float | None = None


@dataclass
class Waited:
    """One value for each request; computed, prompt: tokens of all."""

    ttft_s: list[float] = field(default_factory=list)
    tpot_s: list[float] = field(default_factory=list)
    computed: int = 0
    prompt: int = 0


def simulate(
    arrivals: Sequence[Arrival], producers: int, consumers: int, hardware: Hardware, setup: Setup, seed: int
) -> Waited:
    clock = Clock()
    servers: dict[Role, tuple[int, Server]] = {
        "prefill": (producers, Scheduling(FACTOR).producer(hardware)),
        "decode": (consumers, hardware.consumer),
    }
    deployment = Deployment(servers, order_factor=FACTOR)
    machine = Machine()
    instances = {name: Instance(clock, server, machine) for name, server in deployment.names.items()}
    proxies = [_proxy(deployment, clock, instances) for _ in range(setup.proxies)]
    proxy_of = _spread(setup, seed)
    left = len(arrivals)

    def arrive(arrival: Arrival) -> None:
        nonlocal left
        left -= 1
        Exchange(proxies[proxy_of(arrival)], arrival)

    def tell() -> None:
        in_hand = [proxy.fleet.in_hand() for proxy in proxies]
        for number, proxy in enumerate(proxies):
            proxy.fleet.others_have(_sums(in_hand[:number] + in_hand[number + 1 :]))
        if left and setup.told_every_s is not None:
            clock.at(clock.now + setup.told_every_s, tell)

    if setup.told_every_s is not None:
        clock.at(arrivals[0].at_s, tell)
    for arrival in arrivals:
        clock.at(arrival.at_s, partial(arrive, arrival))
    clock.run()
    served = [each for proxy in proxies for each in proxy.outcome.served]
    return Waited(
        [each.ttft_s for each in served],
        [each.tpot_s for each in served if each.tpot_s is not None],
        sum(each.route.prefill_tokens for each in served),
        sum(each.arrival.prompt.tokens for each in served),
    )


def _proxy(deployment: Deployment, clock: Clock, instances: Mapping[str, Instance]) -> World:
    """With a fleet, estimates and measured rates of its own, before instances that all share."""
    fleet = deployment.fleet(lambda: clock.now)
    return World(clock, deployment, fleet, fleet.route, instances)


def _sums(told: Sequence[Mapping[str, Load]]) -> dict[str, Load]:
    sums: dict[str, Load] = {}
    for loads in told:
        for name, load in loads.items():
            known = sums.get(name, IDLE)
            sums[name] = Load(
                known.outstanding + load.outstanding, 0, known.tokens + load.tokens, known.to_come + load.to_come
            )
    return sums


def _spread(setup: Setup, seed: int) -> Callable[[Arrival], int]:
    dice = random.Random(seed)
    if setup.spread == "random":
        return lambda arrival: dice.randrange(setup.proxies)

    def of_conversation(arrival: Arrival) -> int:
        blocks = arrival.prompt.blocks
        block = blocks[min(CONVERSATION_BLOCK, len(blocks) - 1)] if blocks else 0
        return zlib.crc32(repr(block).encode()) % setup.proxies

    return of_conversation
