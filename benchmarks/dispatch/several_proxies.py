"""Several proxies before one fleet, in simulated time: each has the proxy's own code, and knows what it has been told.

Producers compute step by step in the order of the numbers that the proxies gave, consumers decode as in
`simulation.py`. A request comes to a proxy at random, as a load balancer spreads connections, or to that of its
conversation. What the others have in hand is told every so many seconds, or never.
"""

import random
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from benchmarks.dispatch.choosers import fleet_of
from benchmarks.dispatch.prefill_order import Scheduling, StepProducer
from benchmarks.dispatch.simulation import MODEL, Clock, Consumer, Hardware
from benchmarks.dispatch.trace import Arrival
from proxy.routing.admission import Prefills
from proxy.routing.dispatch import IDLE, Demand, Load
from proxy.routing.prefill_order import FACTORS, PrefillOrder
from proxy.routing.token_estimate import TokenEstimate

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


class _Proxy:
    def __init__(self, producers: int, consumers: int, clock: Clock) -> None:
        self.fleet = fleet_of(producers, consumers)
        self.estimate = TokenEstimate()
        names = [each.instance_id for each in self.fleet.view.usable]
        self.orders = {name: PrefillOrder(FACTOR, lambda: clock.now) for name in names}
        self.measured = {name: Prefills() for name in names}


def simulate(
    arrivals: Sequence[Arrival], producers: int, consumers: int, hardware: Hardware, setup: Setup, seed: int
) -> Waited:
    clock, waited = Clock(), Waited()
    proxies = [_Proxy(producers, consumers, clock) for _ in range(setup.proxies)]
    view = proxies[0].fleet.view
    scheduling = Scheduling(FACTOR)
    prefill = {
        each.instance_id: StepProducer(clock, hardware, scheduling) for each in view.usable if each.role == "prefill"
    }
    decode = {each.instance_id: Consumer(clock, hardware) for each in view.usable if each.role == "decode"}
    proxy_of = _spread(setup, seed)
    left = len(arrivals)

    def arrive(arrival: Arrival) -> None:
        nonlocal left
        left -= 1
        proxy = proxies[proxy_of(arrival)]
        fleet = proxy.fleet
        route = fleet.route(Demand(MODEL, arrival.prompt, proxy.estimate.output_tokens(MODEL, None)))
        producer, consumer, tokens = route.producer, route.consumer, route.prefill_tokens
        if producer is None:
            raise ValueError(f"{route.reason}: expected a policy that splits every request")
        name = producer.instance_id
        fleet.begin(producer, tokens)
        fleet.holds(producer, arrival.prompt)
        fleet.begin(consumer, route.decode_tokens)
        order, measured = proxy.orders[name], proxy.measured[name]
        place = order.enter(tokens, measured.tokens_per_s())
        measured.begin(tokens, clock.now)
        waited.computed += tokens
        waited.prompt += arrival.prompt.tokens

        def prefilled() -> None:
            fleet.end(producer, tokens)
            fleet.holds(consumer, arrival.prompt)
            order.leave(place)
            measured.end(tokens, tokens, clock.now)
            waited.ttft_s.append(clock.now - arrival.at_s)
            began = clock.now

            def answered() -> None:
                fleet.end(consumer, route.decode_tokens)
                proxy.estimate.learn(MODEL, arrival.prompt, arrival.prompt.tokens, arrival.output_tokens)
                waited.tpot_s.append((clock.now - began) / arrival.output_tokens)

            decode[consumer.instance_id].submit(arrival, answered)

        prefill[name].submit(arrival, place.number, prefilled)

    def tell() -> None:
        in_hand = [proxy.fleet.in_hand() for proxy in proxies]
        for number, proxy in enumerate(proxies):
            proxy.fleet.others_have(_sums(in_hand[:number] + in_hand[number + 1 :]))
        if left and setup.told_every_s is not None:
            clock.at(clock.now + setup.told_every_s, tell)

    if setup.told_every_s is not None:
        clock.at(arrivals[0].at_s, tell)
    for arrival in arrivals:
        clock.at(arrival.at_s, lambda arrival=arrival: arrive(arrival))  # type: ignore[misc]
    clock.run()
    return waited


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
