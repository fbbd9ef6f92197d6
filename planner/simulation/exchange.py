"""One client request over its legs: the proxy's own functions, told of them as the proxy tells them.

proxy/exchange/attempt.py is what this follows. Nothing fails here and nobody leaves; there are no bounds of admission,
because a plan for traffic that the proxy would refuse is none.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from planner.simulation.clock import Clock
from planner.simulation.deployment import MODEL, Deployment
from planner.simulation.engine.instance import Instance
from planner.simulation.engine.sequence import Sequence
from planner.simulation.outcome import Outcome, Served
from planner.simulation.transfer import Link, Transfer
from planner.trace import Arrival
from proxy.routing.admission import Prefills
from proxy.routing.dispatch import Demand, Route
from proxy.routing.fleet import Fleet
from proxy.routing.token_estimate import TokenEstimate

Choose = Callable[[Demand], Route]


@dataclass
class World:
    """What all requests of a run share. at_arrival: called after each request has been dispatched."""

    clock: Clock
    deployment: Deployment
    fleet: Fleet
    choose: Choose
    instances: Mapping[str, Instance]
    at_arrival: Callable[[], None] | None = None
    outcome: Outcome = field(default_factory=Outcome)
    estimate: TokenEstimate = field(default_factory=TokenEstimate)

    def __post_init__(self) -> None:
        self.prefills = {name: Prefills() for name in self.instances}
        self.links = {name: Link() for name in self.instances}


class Exchange:
    """Dispatches both legs in its constructor."""

    def __init__(self, world: World, arrival: Arrival) -> None:
        self._world = world
        self._arrival = arrival
        demand = Demand(MODEL, arrival.prompt, world.estimate.output_tokens(MODEL, arrival.output_limit))
        self._route = route = world.choose(demand)
        # As the proxy has it in hand: an aggregated instance's prompt too, until it is computed.
        self._in_hand = route.decode_tokens + (0 if route.producer else route.prefill_tokens)
        self._served: Served | None = None
        self._transfer: Transfer | None = None
        self._prefilled_at: float | None = None
        self._producer = self._send_prefill()
        self._consumer = self._send_decode()
        if world.at_arrival:
            world.at_arrival()
        if self._producer is not None and route.producer is not None:
            name = route.producer.instance_id
            self._transfer = Transfer(world.deployment.transfer, world.links[name])
            constants, consumer = world.deployment.constants, world.instances[route.consumer.instance_id]
            more_s = constants.split_beside_s if consumer.computes else constants.split_s
            self._submit(name, self._producer, more_s)
        self._submit(route.consumer.instance_id, self._consumer)

    def _submit(self, name: str, sequence: Sequence, more_s: float = 0.0) -> None:
        world = self._world
        constants, instance = world.deployment.constants, world.instances[name]
        before_s = constants.before_s + more_s + (constants.beside_s if instance.is_crowded else 0.0)
        world.clock.after(before_s, lambda: instance.submit(sequence))

    def _send_prefill(self) -> Sequence | None:
        producer, world, prompt = self._route.producer, self._world, self._arrival.prompt
        if producer is None:
            return None
        tokens, prefills = self._route.prefill_tokens, world.prefills[producer.instance_id]
        order = world.fleet.order(producer)
        world.fleet.begin(producer, tokens)
        place = order.enter(tokens, prefills.tokens_per_s())
        prefills.begin(tokens, world.clock.now)
        world.fleet.holds(producer, prompt)

        def answered() -> None:
            world.fleet.end(producer, tokens)
            world.fleet.cache_came(self._route.consumer)
            order.leave(place)
            prefills.end(tokens, tokens, world.clock.now)

        def computed() -> None:
            self._prefilled_at = world.clock.now
            world.clock.after(world.deployment.constants.after_s, answered)
            self._await_cache()

        return Sequence(
            prompt,
            output_tokens=1,
            priority=place.number,
            keeps_blocks=True,
            on_computed=self._send_piece,
            on_end=computed,
        )

    def _send_decode(self) -> Sequence:
        consumer, world, prompt = self._route.consumer, self._world, self._arrival.prompt
        after_s = world.deployment.constants.after_s
        world.fleet.begin(consumer, self._in_hand, awaits_cache=self._producer is not None)
        if consumer.role == "aggregated":
            world.fleet.holds(consumer, prompt)
            world.prefills[consumer.instance_id].begin(self._route.prefill_tokens, world.clock.now)
        if self._producer is None:
            return Sequence(
                prompt,
                self._arrival.output_tokens,
                on_first=lambda: world.clock.after(after_s, self._first_token),
                on_end=lambda: world.clock.after(after_s, self._ended),
            )
        given = world.deployment.constants.first_token == "producer"
        return Sequence(
            prompt,
            self._arrival.output_tokens,
            made=int(given),
            remote=True,
            on_room=self._has_room,
            on_first=None if given else lambda: world.clock.after(after_s, self._first_token),
            on_end=lambda: self._tell(self._ended),
        )

    def _tell(self, happen: Callable[[], None]) -> None:
        """What the consumer has for the client now."""
        world = self._world
        steps = world.instances[self._route.consumer.instance_id].steps
        steps.at_end(lambda: world.clock.after(world.deployment.constants.after_s, happen))

    def _send_piece(self, began: float, begin: int, end: int) -> None:
        if self._transfer is not None:
            self._transfer.computed(began, self._world.clock.now, begin, end)

    def _has_room(self, held: int) -> None:
        if self._transfer is not None:
            self._transfer.room(self._world.clock.now, held)
            self._await_cache()

    def _await_cache(self) -> None:
        """Once the prompt is computed and the consumer has room, it is known when the last byte comes.

        The producer's token comes with the computed prompt, and its consumer passes it on between two steps; one that
        ends the answer when the cache has come.
        """
        if self._transfer is None or not self._transfer.has_room or self._prefilled_at is None:
            return
        if self._world.deployment.constants.first_token == "producer" and self._arrival.output_tokens > 1:
            self._world.clock.at(self._world.clock.now, lambda: self._tell(self._first_token))
        there_at = max(self._transfer.there_at, self._world.clock.now)
        self._world.clock.at(there_at, self._release)
        self._world.clock.at(there_at + self._world.deployment.transfer.handover_s, self._cache_came)

    def _release(self) -> None:
        if self._route.producer is not None and self._producer is not None:
            self._world.instances[self._route.producer.instance_id].release(self._producer)

    def _cache_came(self) -> None:
        self._world.instances[self._route.consumer.instance_id].arrived(self._consumer)

    def _first_token(self) -> None:
        world, consumer = self._world, self._route.consumer
        if consumer.role == "aggregated":
            tokens = self._route.prefill_tokens
            world.prefills[consumer.instance_id].end(tokens, tokens, world.clock.now)
        computed = self._in_hand - self._route.decode_tokens
        if computed:
            self._in_hand -= computed
            world.fleet.prefilled(consumer, computed)
        world.fleet.holds(consumer, self._arrival.prompt)
        self._served = Served(self._arrival, self._route, world.clock.now)
        world.outcome.served.append(self._served)

    def _ended(self) -> None:
        world, arrival = self._world, self._arrival
        if self._served is None:  # one token, and the producer's
            self._first_token()
        served = self._served
        assert served is not None
        world.fleet.end(self._route.consumer, self._in_hand)
        world.estimate.learn(MODEL, arrival.prompt, arrival.prompt.tokens, arrival.output_tokens)
        consumer = self._consumer
        served.ended_s = world.clock.now
        served.after_s = world.deployment.constants.after_s
        served.computed, served.preemptions = consumer.missed, consumer.preemptions
        served.tokens = [(world.instances[self._route.consumer.instance_id].steps.ends, consumer.stretches)]
        if self._producer is not None and self._transfer is not None and self._prefilled_at is not None:
            served.computed += self._producer.missed
            served.moved = self._transfer.moved
            served.exposed_s = max(0.0, self._transfer.there_at - self._prefilled_at)
