"""Who waits for whom at producers that take their prompts step by step, in the order of the proxy's own code."""

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.dispatch.fleets import NO_BOUND, Hardware
from planner.simulation import server
from planner.simulation.costs import StepCosts
from planner.simulation.deployment import Deployment
from planner.simulation.run import simulate
from planner.simulation.server import Server
from planner.trace import Arrival
from stack.instances.record import Role

CONSUMERS = 4  # that cost nothing


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

    def producer(self, hardware: Hardware) -> Server:
        options = server.Scheduling(self.step_tokens, NO_BOUND, self.threshold, self.adaptive)
        return Server(StepCosts(self.step_s, prompt_token_s=1 / hardware.prefill_rate), options, hardware.cache_tokens)


@dataclass(frozen=True)
class Waited:
    """Of one prompt: when it arrived, tokens that a producer had to compute, and the time until it had."""

    at_s: float
    tokens: int
    ttft_s: float


def waits(arrivals: Sequence[Arrival], producers: int, hardware: Hardware, scheduling: Scheduling) -> list[Waited]:
    """What each prompt waited for its producer, which is the proxy's choice; in the order in which they were done."""
    idle = Server(StepCosts(), server.Scheduling(NO_BOUND, NO_BOUND))
    servers: dict[Role, tuple[int, Server]] = {
        "prefill": (producers, scheduling.producer(hardware)),
        "decode": (CONSUMERS, idle),
    }
    outcome = simulate(arrivals, Deployment(servers, order_factor=scheduling.factor))
    return [Waited(each.arrival.at_s, each.route.prefill_tokens, each.ttft_s) for each in outcome.served]
