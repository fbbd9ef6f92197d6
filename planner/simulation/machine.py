"""A machine that several instances share, and by how much each slows the others down.

Who reads most of the memory suffers from others that do: a step of answers reads the whole model for a few tokens,
prompts compute much with what they read. So it counts what a step is for, and what the others' are.
"""

from dataclasses import dataclass
from random import Random
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Crowding:
    """By what part an instance's step takes longer while another one computes too.

    The part of the step that is for answers (all but its prompts' tokens), beside steps of answers alone and beside
    those with prompts; and the part that is for prompts.
    """

    answers_beside_answers: float = 0.0
    answers_beside_prompts: float = 0.0
    prompts_beside_answers: float = 0.0
    prompts_beside_prompts: float = 0.0

    def of(self, prompts: float, beside_prompts: bool) -> float:
        """Args: prompts: their part of the step's time alone."""
        if beside_prompts:
            answers, of_prompts = self.answers_beside_prompts, self.prompts_beside_prompts
        else:
            answers, of_prompts = self.answers_beside_answers, self.prompts_beside_answers
        return answers + prompts * (of_prompts - answers)


APART = Crowding()


@dataclass(frozen=True, slots=True)
class Pace:
    """How far steps are from their costs, by what other instances of the machine do meanwhile, and by chance.

    awaiting: by what part it takes longer while another one only waits for a KV cache, for which vLLM looks every
    millisecond. jitter_s, jitter_beside_s: seconds that it takes more or less than that, by itself and while another
    one computes; each of them is as likely as the others, none: always the same.
    """

    crowding: Crowding = APART
    awaiting: float = 0.0
    jitter_s: tuple[float, ...] = ()
    jitter_beside_s: tuple[float, ...] = ()

    @property
    def apart(self) -> "Pace":
        """The same without other instances on the machine."""
        return Pace(jitter_s=self.jitter_s, jitter_beside_s=self.jitter_s)

    @property
    def is_shared(self) -> bool:
        return bool(self.awaiting) or self.crowding != APART


STEADY = Pace()


class Neighbour(Protocol):
    def change_pace(self) -> None:
        """What the others on its machine do has changed."""


class Machine:
    """What its instances do now."""

    def __init__(self) -> None:
        self._computing: dict[Neighbour, bool] = {}  # in an order, that chance is the same each time; prompts too
        self._with_prompts = 0
        self._awaiting: set[Neighbour] = set()
        self._chance = Random(0)

    def computes(self, instance: Neighbour, prompts: bool) -> None:
        """Args: prompts: among what the step is for."""
        before = self._computing.get(instance)
        if before is not prompts:
            self._awaiting.discard(instance)
            self._computing[instance] = prompts
            self._with_prompts += prompts - bool(before)
            self._tell(instance)

    def rests(self, instance: Neighbour, awaits: bool) -> None:
        """Args: awaits: a KV cache, with nothing to compute until it comes."""
        if instance in self._computing or awaits != (instance in self._awaiting):
            self._with_prompts -= self._computing.pop(instance, False)
            (self._awaiting.add if awaits else self._awaiting.discard)(instance)
            self._tell(instance)

    def slower(self, instance: Neighbour, pace: Pace, prompts: float) -> float:
        """How many times as long as alone a step of one of those which compute takes now.

        Args: prompts: their part of its time alone.
        """
        others = len(self._computing) - 1
        if not others:
            return 1.0 + pace.awaiting if self._awaiting else 1.0
        with_prompts = self._with_prompts - self._computing[instance]
        beside = [kind for kind, many in ((True, with_prompts), (False, others - with_prompts)) if many]
        return 1.0 + max(pace.crowding.of(prompts, beside_prompts) for beside_prompts in beside)

    def is_busy_beside(self, instance: Neighbour) -> bool:
        return len(self._computing) > (instance in self._computing)

    def by_chance(self, pace: Pace, steps: int) -> list[float]:
        """Seconds that each of such an instance's next steps takes more or less."""
        jitter_s = pace.jitter_beside_s if len(self._computing) > 1 else pace.jitter_s
        return self._chance.choices(jitter_s, k=steps) if jitter_s else [0.0] * steps

    def _tell(self, changed: Neighbour) -> None:
        for each in self._computing:
            if each is not changed:
                each.change_pace()
