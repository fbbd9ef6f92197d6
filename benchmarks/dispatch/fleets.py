"""The fleets that are simulated, and what the pages show of a run.

A producer computes one prompt after the other, at a fixed number of tokens a second, except for the tokens that its own
prefix cache still holds when the prompt's turn comes. A consumer decodes all that it has, in steps that get longer with
the tokens that it holds. The KV cache moves in no time, because layers move while the next ones are computed. An
aggregated server does both in the same steps, in a KV cache that its running requests share with the prefix cache.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from planner.simulation.costs import StepCosts
from planner.simulation.deployment import Deployment
from planner.simulation.run import Chooser, simulate
from planner.simulation.server import Scheduling, Server
from planner.trace import BLOCK_TOKENS, Arrival
from proxy.routing.dispatch import SPLIT_ALL, Policy
from proxy.routing.fleet import BLOCKS_REMEMBERED, Fleet
from stack.instances.record import Role

STEP_TOKENS = 2048  # MAX_NUM_BATCHED_TOKENS
NO_BOUND = 1 << 30
BY_ARRIVAL = 1  # PrefillOrder's factor


@dataclass(frozen=True)
class Hardware:
    """Of each instance: prefill in tokens a second, a prefix cache in tokens, a decode step in seconds."""

    prefill_rate: float
    cache_tokens: int
    step_s: float = 0.02
    step_s_per_token: float = 25e-9

    @property
    def producer(self) -> Server:
        # Beside whole blocks there is room for the end of one prompt, which is no block and so never cached.
        room = self.cache_tokens // BLOCK_TOKENS * BLOCK_TOKENS + BLOCK_TOKENS - 1
        costs = StepCosts(prompt_token_s=1 / self.prefill_rate)
        return Server(costs, Scheduling(NO_BOUND, max_sequences=1), room, block_tokens=1)

    @property
    def consumer(self) -> Server:
        return Server(StepCosts(self.step_s, context_token_s=self.step_s_per_token), Scheduling(NO_BOUND, NO_BOUND))

    @property
    def aggregated(self) -> Server:
        costs = StepCosts(self.step_s, 0.0, self.step_s_per_token, 1 / self.prefill_rate)
        return Server(costs, Scheduling(STEP_TOKENS, NO_BOUND), self.cache_tokens)


@dataclass
class Outcome:
    """One value for each request; consumer_tokens: outstanding at each arrival; computed: tokens by instance."""

    ttft_s: list[float] = field(default_factory=list)
    tpot_s: list[float] = field(default_factory=list)
    consumer_tokens: list[list[int]] = field(default_factory=list)
    computed: dict[str, int] = field(default_factory=dict)
    prompt_tokens: int = 0

    @property
    def hit_rate(self) -> float:
        return 1 - sum(self.computed.values()) / self.prompt_tokens


def pairs(
    hardware: Hardware,
    producers: int,
    consumers: int,
    policy: Policy = SPLIT_ALL,
    blocks_remembered: int = BLOCKS_REMEMBERED,
) -> Deployment:
    servers: dict[Role, tuple[int, Server]] = {
        "prefill": (producers, hardware.producer),
        "decode": (consumers, hardware.consumer),
    }
    return Deployment(servers, policy=policy, order_factor=BY_ARRIVAL, blocks_remembered=blocks_remembered)


def aggregated(hardware: Hardware, servers: int, policy: Policy = SPLIT_ALL) -> Deployment:
    return Deployment({"aggregated": (servers, hardware.aggregated)}, policy=policy)


def run(arrivals: Sequence[Arrival], deployment: Deployment, chooser: Chooser) -> Outcome:
    """`chooser`: who chooses the instances."""
    prefilling = "prefill" if "prefill" in deployment.servers else "aggregated"
    decoding = "decode" if "decode" in deployment.servers else "aggregated"
    names = [name for name in deployment.names if name.startswith(decoding)]
    outcome = Outcome(prompt_tokens=sum(arrival.prompt.tokens for arrival in arrivals))

    def note_consumers(fleet: Fleet) -> None:
        outcome.consumer_tokens.append([fleet.outstanding_tokens(name) for name in names])

    simulated = simulate(arrivals, deployment, chooser, note_consumers)
    outcome.ttft_s = [each.ttft_s for each in simulated.served]
    outcome.tpot_s = [each.tpot_s for each in simulated.served if each.tpot_s is not None]
    outcome.computed = {
        name: work.computed for name, work in simulated.instances.items() if name.startswith(prefilling)
    }
    return outcome
