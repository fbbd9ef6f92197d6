"""How fast the simulator is: python -m benchmarks.plan.speed

Chats of 2,000 tokens with answers of 300, which arrive as fast as the instances take them; the steps of one H200 with
the shape of Qwen2.5-7B, about.
"""

import argparse
import sys
import time

from benchmarks.option_types import count
from benchmarks.tables import table
from planner.simulation.costs import Constants, StepCosts, TransferCosts
from planner.simulation.deployment import Deployment
from planner.simulation.run import simulate
from planner.simulation.server import Scheduling, Server
from planner.sizing.splits import Split
from planner.sizing.workload import Draw, Kind, MadeUp
from proxy.routing.dispatch import SPLIT_ALL
from stack.instances.record import Role

SERVER = Server(StepCosts(0.0046, 1e-5, 1.3e-8, 2.1e-5, 7.6e-10), Scheduling(2048), 600_000, 32)
TRANSFER, CONSTANTS = TransferCosts(57344.0, 6e10, 0.0005, 1, 0.002), Constants(0.003, 0.003)
PER_INSTANCE_S = 4.0  # requests


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.plan.speed", description=__doc__)
    parser.add_argument("--requests", type=count, default=10_000)
    parser.add_argument("--instances", type=count, default=64)
    options = parser.parse_args()
    workload = MadeUp((Kind(1.0, _around(2000), _around(300)),), options.instances * PER_INSTANCE_S, "chats")
    arrivals = workload.arrivals(workload.rate, options.requests, seed=1)
    half = options.instances // 2
    lines = []
    for split in (Split(0, 0, options.instances), Split(half, options.instances - half)):
        counts: dict[Role, int] = {
            "prefill": split.producers,
            "decode": split.consumers,
            "aggregated": split.aggregated,
        }
        servers: dict[Role, tuple[int, Server]] = {role: (many, SERVER) for role, many in counts.items() if many}
        before = time.process_time()
        outcome = simulate(arrivals, Deployment(servers, TRANSFER, CONSTANTS, SPLIT_ALL))
        seconds = time.process_time() - before
        steps = sum(work.steps for work in outcome.instances.values())
        tokens = sum(arrival.output_tokens for arrival in arrivals)
        lines.append((str(split), f"{len(outcome.served):,}", f"{tokens:,}", f"{steps:,}", f"{seconds:.1f}"))
    print(table(("split", "requests", "tokens of answers", "steps", "CPU seconds"), lines))
    return 0


def _around(tokens: int) -> Draw:
    """From half of `tokens` to half as many again."""
    return lambda dice: dice.randint(tokens // 2, tokens * 3 // 2)


if __name__ == "__main__":
    sys.exit(main())
