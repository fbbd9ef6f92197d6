"""What an instance is: what its steps cost, the options of its scheduler, its KV cache; and a machine of several."""

from dataclasses import dataclass

from planner.simulation.costs import StepCosts


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
    """What an instance is: its costs and options, and its KV cache in tokens, None: without bounds.

    crowding: by what part a step takes longer that begins while another instance of the machine computes.
    """

    costs: StepCosts
    scheduling: Scheduling = Scheduling()
    kv_tokens: int | None = None
    block_tokens: int = 16
    crowding: float = 0.0


class Machine:
    """Which of its instances compute now: where they share processors or memory's bandwidth each is slower then."""

    def __init__(self) -> None:
        self._computing: set[object] = set()

    def computes(self, instance: object) -> bool:
        """Returns: whether others do, too."""
        self._computing.add(instance)
        return len(self._computing) > 1

    def rests(self, instance: object) -> None:
        self._computing.discard(instance)
