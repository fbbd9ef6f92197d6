"""What an instance is: what its steps cost, the options of its scheduler, its KV cache; and a machine of several."""

from dataclasses import dataclass
from random import Random
from typing import Protocol

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
class Pace:
    """How far steps are from their costs, by what other instances of the machine do when one begins, and by chance.

    crowding, awaiting: by what part it takes longer while another one computes, or only waits for a KV cache, for which
    vLLM looks every millisecond. jitter_s, jitter_beside_s: seconds that it takes more or less than that, by itself and
    while another one computes; each of them is as likely as the others, none: always the same.
    """

    crowding: float = 0.0
    awaiting: float = 0.0
    jitter_s: tuple[float, ...] = ()
    jitter_beside_s: tuple[float, ...] = ()

    @property
    def apart(self) -> "Pace":
        """The same without other instances on the machine."""
        return Pace(jitter_s=self.jitter_s, jitter_beside_s=self.jitter_s)


@dataclass(frozen=True, slots=True)
class Server:
    """What an instance is: its costs and options, and its KV cache in tokens, None: without bounds."""

    costs: StepCosts
    scheduling: Scheduling = Scheduling()
    kv_tokens: int | None = None
    block_tokens: int = 16
    pace: Pace = Pace()


class Neighbour(Protocol):
    def change_pace(self) -> None:
        """What the others on its machine do has changed."""


class Machine:
    """What its instances do now: where they share processors or memory's bandwidth each slows the others down."""

    def __init__(self) -> None:
        self._computing: dict[Neighbour, None] = {}  # in an order, that chance is the same each time
        self._awaiting: set[Neighbour] = set()
        self._chance = Random(0)

    def computes(self, instance: Neighbour) -> None:
        if instance not in self._computing:
            self._awaiting.discard(instance)
            self._computing[instance] = None
            self._tell(instance)

    def rests(self, instance: Neighbour, awaits: bool) -> None:
        """Args: awaits: a KV cache, with nothing to compute until it comes."""
        if instance in self._computing or awaits != (instance in self._awaiting):
            self._computing.pop(instance, None)
            (self._awaiting.add if awaits else self._awaiting.discard)(instance)
            self._tell(instance)

    def slower(self, pace: Pace) -> float:
        """How many times as long as alone an instance's steps take now that is one of those which compute."""
        if len(self._computing) > 1:
            return 1.0 + pace.crowding
        return 1.0 + pace.awaiting if self._awaiting else 1.0

    def by_chance(self, pace: Pace, steps: int) -> list[float]:
        """Seconds that each of such an instance's next steps takes more or less."""
        jitter_s = pace.jitter_beside_s if len(self._computing) > 1 else pace.jitter_s
        return self._chance.choices(jitter_s, k=steps) if jitter_s else [0.0] * steps

    def _tell(self, changed: Neighbour) -> None:
        for each in self._computing:
            if each is not changed:
                each.change_pace()
