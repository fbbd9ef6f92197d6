"""What an instance is: what its steps cost, the options of its scheduler, its KV cache."""

from dataclasses import dataclass

from planner.simulation.costs import StepCosts
from planner.simulation.machine import STEADY, Pace


@dataclass(frozen=True, slots=True)
class Scheduling:
    """vLLM's options: --max-num-batched-tokens, --max-num-seqs, --long-prefill-token-threshold and its -adaptive.

    long_prefill_threshold: tokens of one prompt in one step while there are others, 0: no bound.
    steps_ahead: of --async-scheduling: while a step runs the next one is scheduled already, so that what comes
    meanwhile is in the one after that.
    """

    step_tokens: int = 2048
    max_sequences: int = 256
    long_prefill_threshold: int = 0
    adaptive_threshold: bool = False
    steps_ahead: int = 0


@dataclass(frozen=True, slots=True)
class Server:
    """What an instance is: its costs and options, and its KV cache in tokens, None: without bounds."""

    costs: StepCosts
    scheduling: Scheduling = Scheduling()
    kv_tokens: int | None = None
    block_tokens: int = 16
    pace: Pace = STEADY
