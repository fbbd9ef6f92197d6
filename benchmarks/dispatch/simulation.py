"""A fleet in simulated time: what each request waits for, given who chooses its instances.

A producer computes one prompt after the other, at a fixed number of tokens a second, except for the tokens that its own
prefix cache still holds when the prompt's turn comes. A consumer decodes all that it has at once, a token each in a
step that gets longer with the tokens that it holds. The KV cache moves in no time, because layers move while the next
ones are computed. Nothing is random: the same arrivals and choices give the same figures.
"""

import heapq
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import count

from planner.trace import BLOCK_TOKENS, Arrival
from proxy.routing.dispatch import Demand, Route
from proxy.routing.fleet import Fleet
from proxy.routing.prefix_cache import PrefixCache
from proxy.routing.token_estimate import TokenEstimate

MODEL = "simulated"
Choose = Callable[[Demand], Route]


@dataclass(frozen=True)
class Hardware:
    """Of each instance: prefill in tokens a second, a producer's prefix cache in tokens, a decode step in seconds."""

    prefill_rate: float
    cache_tokens: int
    step_s: float = 0.02
    step_s_per_token: float = 25e-9


@dataclass
class Outcome:
    """One value for each request, in the order in which it came to pass; computed: tokens by producer."""

    ttft_s: list[float] = field(default_factory=list)
    tpot_s: list[float] = field(default_factory=list)
    consumer_tokens: list[list[int]] = field(default_factory=list)
    computed: dict[str, int] = field(default_factory=dict)
    prompt_tokens: int = 0

    @property
    def hit_rate(self) -> float:
        return 1 - sum(self.computed.values()) / self.prompt_tokens


class Clock:
    def __init__(self) -> None:
        self.now = 0.0
        self._numbers = count()
        self._events: list[tuple[float, int, Callable[[], None]]] = []

    def at(self, when: float, happen: Callable[[], None]) -> None:
        heapq.heappush(self._events, (when, next(self._numbers), happen))

    def run(self) -> None:
        while self._events:
            self.now, _, happen = heapq.heappop(self._events)
            happen()


class Producer:
    def __init__(self, clock: Clock, hardware: Hardware) -> None:
        self.computed = 0
        self._clock = clock
        self._rate = hardware.prefill_rate
        self._cache = PrefixCache(hardware.cache_tokens // BLOCK_TOKENS)
        self._queue: deque[tuple[Arrival, Callable[[], None]]] = deque()

    def submit(self, arrival: Arrival, done: Callable[[], None]) -> None:
        self._queue.append((arrival, done))
        if len(self._queue) == 1:
            self._begin()

    def _begin(self) -> None:
        prompt = self._queue[0][0].prompt
        tokens = prompt.missing(self._cache.matched(prompt.blocks))
        self.computed += tokens
        self._clock.at(self._clock.now + tokens / self._rate, self._end)

    def _end(self) -> None:
        arrival, done = self._queue.popleft()
        self._cache.insert(arrival.prompt.blocks)
        done()
        if self._queue:
            self._begin()


class Consumer:
    """Counts steps: a request leaves when so many have passed since it came as it has tokens to make."""

    def __init__(self, clock: Clock, hardware: Hardware) -> None:
        self._clock = clock
        self._hardware = hardware
        self._steps = 0.0
        self._since = 0.0
        self._tokens = 0
        self._numbers = count()
        self._leaving: list[tuple[float, int, int, Callable[[], None]]] = []

    def submit(self, arrival: Arrival, done: Callable[[], None]) -> None:
        self._advance()
        tokens = arrival.prompt.tokens + arrival.output_tokens
        self._tokens += tokens
        heapq.heappush(self._leaving, (self._steps + arrival.output_tokens, next(self._numbers), tokens, done))
        self._expect()

    def _step_s(self) -> float:
        return self._hardware.step_s + self._hardware.step_s_per_token * self._tokens

    def _advance(self) -> None:
        self._steps += (self._clock.now - self._since) / self._step_s()
        self._since = self._clock.now

    def _expect(self) -> None:
        if self._leaving:
            first = self._leaving[0]
            when = self._clock.now + max(first[0] - self._steps, 0.0) * self._step_s()
            self._clock.at(when, lambda: self._leave(first))

    def _leave(self, expected: tuple[float, int, int, Callable[[], None]]) -> None:
        """Does nothing when a request that has come since has made the steps longer: then it is expected later."""
        self._advance()
        if self._leaving and self._leaving[0] is expected and expected[0] - self._steps < 1e-6:
            heapq.heappop(self._leaving)
            self._tokens -= expected[2]
            expected[3]()
            self._expect()


def simulate(arrivals: Sequence[Arrival], fleet: Fleet, hardware: Hardware, choose: Choose) -> Outcome:
    """`fleet` knows the instances; it is told of each request's legs as the proxy tells it."""
    clock, outcome, estimate = Clock(), Outcome(), TokenEstimate()
    ids = {
        role: [each.instance_id for each in fleet.view.usable if each.role == role] for role in ("prefill", "decode")
    }
    producers = {name: Producer(clock, hardware) for name in ids["prefill"]}
    consumers = {name: Consumer(clock, hardware) for name in ids["decode"]}

    def arrive(arrival: Arrival) -> None:
        route = choose(Demand(MODEL, arrival.prompt, estimate.output_tokens(MODEL, None)))
        producer, consumer = route.producer, route.consumer
        if producer is None:
            raise ValueError(f"{route.reason}: expected a policy that splits every request")

        def prefilled() -> None:
            fleet.end(producer, route.prefill_tokens)
            fleet.holds(consumer, arrival.prompt)
            outcome.ttft_s.append(clock.now - arrival.at_s)
            began = clock.now

            def answered() -> None:
                fleet.end(consumer, route.decode_tokens)
                estimate.learn(MODEL, arrival.prompt, arrival.prompt.tokens, arrival.output_tokens)
                outcome.tpot_s.append((clock.now - began) / arrival.output_tokens)

            consumers[consumer.instance_id].submit(arrival, answered)

        fleet.begin(producer, route.prefill_tokens)
        fleet.holds(producer, arrival.prompt)
        fleet.begin(consumer, route.decode_tokens)
        outcome.prompt_tokens += arrival.prompt.tokens
        outcome.consumer_tokens.append([fleet.outstanding_tokens(name) for name in ids["decode"]])
        producers[producer.instance_id].submit(arrival, prefilled)

    for arrival in arrivals:
        clock.at(arrival.at_s, lambda arrival=arrival: arrive(arrival))  # type: ignore[misc]
    clock.run()
    outcome.computed = {name: producer.computed for name, producer in producers.items()}
    return outcome
