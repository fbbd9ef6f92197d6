"""Aggregated servers in simulated time: prompts in chunks and answers share each server's steps.

In a step a server makes a token for each answer under way and computes what then fits of the prompts that wait, in
order, but for the tokens that its prefix cache holds when a prompt's turn comes. The step takes what a consumer's
takes, and the time of the prompt's tokens at a producer's rate on top.
"""

import heapq
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count

from benchmarks.dispatch.simulation import MODEL, Choose, Clock, Hardware, Outcome
from planner.trace import BLOCK_TOKENS, Arrival
from proxy.routing.dispatch import Demand
from proxy.routing.fleet import Fleet
from proxy.routing.prefix_cache import PrefixCache
from proxy.routing.token_estimate import TokenEstimate

STEP_TOKENS = 2048  # MAX_NUM_BATCHED_TOKENS


@dataclass
class Waiting:
    """A request whose prompt is not computed yet; `left`: tokens to compute, once its turn has come."""

    arrival: Arrival
    prefilled: Callable[[], None]
    answered: Callable[[], None]
    left: int | None = None


class Server:
    """Counts steps: an answer ends when so many have passed since its prompt was computed as it has tokens."""

    def __init__(self, clock: Clock, hardware: Hardware) -> None:
        self.computed = 0
        self._clock = clock
        self._hardware = hardware
        self._cache = PrefixCache(hardware.cache_tokens // BLOCK_TOKENS)
        self._waiting: deque[Waiting] = deque()
        self._running: list[tuple[int, int, Waiting]] = []  # with the step after which it ends
        self._tokens = 0
        self._steps = 0
        self._numbers = count()
        self._idle = True

    def submit(self, request: Waiting) -> None:
        self._waiting.append(request)
        if self._idle:
            self._idle = False
            self._step()

    def _step(self) -> None:
        room = STEP_TOKENS - len(self._running)
        computed = 0
        complete = []
        while self._waiting and computed < room:
            first = self._waiting[0]
            blocks = first.arrival.prompt.blocks
            if first.left is None:
                first.left = first.arrival.prompt.missing(self._cache.matched(blocks))
            taken = min(first.left, room - computed)
            first.left -= taken
            computed += taken
            if not first.left:
                self._cache.insert(blocks)
                complete.append(self._waiting.popleft())
        self.computed += computed
        hardware = self._hardware
        lasts_s = hardware.step_s + hardware.step_s_per_token * self._tokens + computed / hardware.prefill_rate
        self._clock.at(self._clock.now + lasts_s, lambda: self._end(complete))

    def _end(self, complete: Sequence[Waiting]) -> None:
        self._steps += 1
        while self._running and self._running[0][0] <= self._steps:
            request = heapq.heappop(self._running)[2]
            self._tokens -= _held(request.arrival)
            request.answered()
        for request in complete:
            request.prefilled()
            self._tokens += _held(request.arrival)
            heapq.heappush(self._running, (self._steps + request.arrival.output_tokens, next(self._numbers), request))
        self._idle = not self._waiting and not self._running
        if not self._idle:
            self._step()


def simulate(arrivals: Sequence[Arrival], fleet: Fleet, hardware: Hardware, choose: Choose) -> Outcome:
    """As `simulation.simulate`, of a fleet of aggregated servers."""
    clock, outcome, estimate = Clock(), Outcome(), TokenEstimate()
    names = [each.instance_id for each in fleet.view.usable]
    servers = {name: Server(clock, hardware) for name in names}

    def arrive(arrival: Arrival) -> None:
        route = choose(Demand(MODEL, arrival.prompt, estimate.output_tokens(MODEL, None)))
        instance = route.consumer
        began = 0.0

        def prefilled() -> None:
            nonlocal began
            began = clock.now
            fleet.prefilled(instance, route.prefill_tokens)
            outcome.ttft_s.append(began - arrival.at_s)

        def answered() -> None:
            fleet.end(instance, route.decode_tokens)
            estimate.learn(MODEL, arrival.prompt, arrival.prompt.tokens, arrival.output_tokens)
            outcome.tpot_s.append((clock.now - began) / arrival.output_tokens)

        fleet.begin(instance, route.prefill_tokens + route.decode_tokens)
        fleet.holds(instance, arrival.prompt)
        outcome.prompt_tokens += arrival.prompt.tokens
        outcome.consumer_tokens.append([fleet.outstanding_tokens(name) for name in names])
        servers[instance.instance_id].submit(Waiting(arrival, prefilled, answered))

    for arrival in arrivals:
        clock.at(arrival.at_s, lambda arrival=arrival: arrive(arrival))  # type: ignore[misc]
    clock.run()
    outcome.computed = {name: server.computed for name, server in servers.items()}
    return outcome


def _held(arrival: Arrival) -> int:
    return arrival.prompt.tokens + arrival.output_tokens
