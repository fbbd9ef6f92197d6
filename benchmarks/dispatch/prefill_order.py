"""Producers in simulated time, step by step as vLLM's scheduler takes them, and who waits for whom there.

A step has room for so many tokens. Prompts that have begun come first, in the order in which they began, then those
that wait, by the number that the proxy's own code gave them. One that has begun takes all the room it can use, unless
long prompts share it (`--long-prefill-token-threshold` with `--long-prefill-token-threshold-adaptive`): then none
takes more than an equal part of the step, counting those that wait, or the threshold if that is more.
"""

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count

from benchmarks.dispatch.simulation import MODEL, Clock, Hardware
from planner.trace import BLOCK_TOKENS, Arrival
from proxy.routing.admission import Prefills
from proxy.routing.dispatch import Demand
from proxy.routing.fleet import Fleet
from proxy.routing.prefill_order import PrefillOrder
from proxy.routing.prefix_cache import PrefixCache


@dataclass(frozen=True)
class Scheduling:
    """factor: PrefillOrder's, 1 is first come, first served. threshold: tokens, 0: long prompts do not share steps.

    step_tokens: MAX_NUM_BATCHED_TOKENS. step_s: what a step takes besides its tokens.
    """

    factor: int
    threshold: int = 0
    adaptive: bool = True
    step_tokens: int = 2048
    step_s: float = 0.003


@dataclass(frozen=True)
class Waited:
    """Of one prompt: when it arrived, tokens that a producer had to compute, and the time until it had."""

    at_s: float
    tokens: int
    ttft_s: float


@dataclass
class _Prompt:
    arrival: Arrival
    done: Callable[[], None]
    left: int = 0


class StepProducer:
    def __init__(self, clock: Clock, hardware: Hardware, scheduling: Scheduling) -> None:
        self._clock = clock
        self._rate = hardware.prefill_rate
        self._scheduling = scheduling
        self._cache = PrefixCache(hardware.cache_tokens // BLOCK_TOKENS)
        self._waiting: list[tuple[int, int, _Prompt]] = []
        self._running: list[_Prompt] = []
        self._numbers = count()
        self._idle = True

    def submit(self, arrival: Arrival, number: int, done: Callable[[], None]) -> None:
        heapq.heappush(self._waiting, (number, next(self._numbers), _Prompt(arrival, done)))
        if self._idle:
            self._idle = False
            self._step()

    def _step(self) -> None:
        step_tokens, cap = self._scheduling.step_tokens, self._cap()
        room = step_tokens
        for prompt in self._running:
            room -= self._compute(prompt, min(room, cap))
        while room and self._waiting:
            prompt = heapq.heappop(self._waiting)[2]
            blocks = prompt.arrival.prompt.blocks
            prompt.left = prompt.arrival.prompt.missing(self._cache.matched(blocks))
            self._running.append(prompt)
            room -= self._compute(prompt, min(room, cap))
        lasts_s = self._scheduling.step_s + (step_tokens - room) / self._rate
        self._clock.at(self._clock.now + lasts_s, self._end)

    def _cap(self) -> int:
        """Tokens of one prompt in one step."""
        scheduling, prompts = self._scheduling, len(self._running) + len(self._waiting)
        if not scheduling.threshold or prompts == 1:
            return scheduling.step_tokens
        return max(scheduling.threshold, scheduling.step_tokens // prompts * scheduling.adaptive)

    def _compute(self, prompt: _Prompt, room: int) -> int:
        taken = min(prompt.left, room)
        prompt.left -= taken
        return taken

    def _end(self) -> None:
        complete = [prompt for prompt in self._running if not prompt.left]
        self._running = [prompt for prompt in self._running if prompt.left]
        for prompt in complete:
            self._cache.insert(prompt.arrival.prompt.blocks)
            prompt.done()
        self._idle = not self._running and not self._waiting
        if not self._idle:
            self._step()


def simulate(arrivals: Sequence[Arrival], fleet: Fleet, hardware: Hardware, scheduling: Scheduling) -> list[Waited]:
    """What each prompt waited for its producer, which is the proxy's choice; in the order in which they were done."""
    clock = Clock()
    names = [each.instance_id for each in fleet.view.usable if each.role == "prefill"]
    producers = {name: StepProducer(clock, hardware, scheduling) for name in names}
    orders = {name: PrefillOrder(scheduling.factor, lambda: clock.now) for name in names}
    measured = {name: Prefills() for name in names}
    waited: list[Waited] = []

    def arrive(arrival: Arrival) -> None:
        route = fleet.route(Demand(MODEL, arrival.prompt))
        producer, tokens = route.producer, route.prefill_tokens
        if producer is None:
            raise ValueError(f"{route.reason}: expected a policy that splits every request")
        name = producer.instance_id
        fleet.begin(producer, tokens)
        fleet.holds(producer, arrival.prompt)
        place = orders[name].enter(tokens, measured[name].tokens_per_s())
        measured[name].begin(tokens, clock.now)

        def done() -> None:
            fleet.end(producer, tokens)
            orders[name].leave(place)
            measured[name].end(tokens, tokens, clock.now)
            waited.append(Waited(arrival.at_s, tokens, clock.now - arrival.at_s))

        producers[name].submit(arrival, place.number, done)

    for arrival in arrivals:
        clock.at(arrival.at_s, lambda arrival=arrival: arrive(arrival))  # type: ignore[misc]
    clock.run()
    return waited
