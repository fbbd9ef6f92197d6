"""Requests at any rate: made up from lengths, or those of a trace with the times between them stretched."""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Protocol

from planner.trace import BLOCK_TOKENS, TRACE_BLOCK, Arrival, prompt_of
from proxy.request.prompt import Prompt

Draw = Callable[[Random], int]


class Workload(Protocol):
    @property
    def rate(self) -> float:
        """Requests a second, as it is."""

    @property
    def text(self) -> str:
        """What it is, for people."""

    def arrivals(self, rate: float, requests: int, seed: int) -> list[Arrival]:
        """At most so many, at `rate` a second; the same for the same arguments."""

    def scaled(self, prompts: float = 1.0, answers: float = 1.0) -> "Workload":
        """With prompts and answers so many times as long."""


@dataclass(frozen=True)
class Kind:
    """A share of the requests, with the lengths of its prompts and answers, in tokens."""

    share: float
    prompt: Draw
    answer: Draw


@dataclass(frozen=True)
class MadeUp:
    """Poisson arrivals of several kinds of requests, of which no two share a prefix."""

    kinds: Sequence[Kind]
    rate: float
    text: str
    prompts: float = 1.0
    answers: float = 1.0

    def arrivals(self, rate: float, requests: int, seed: int) -> list[Arrival]:
        dice, at_s, found = Random(f"arrivals {seed}"), 0.0, []
        names = itertools.count(1)
        shares = [kind.share for kind in self.kinds]
        for _ in range(requests):
            at_s += dice.expovariate(rate)
            (kind,) = dice.choices(self.kinds, shares)
            tokens, answer = _times(kind.prompt(dice), self.prompts), _times(kind.answer(dice), self.answers)
            blocks = list(itertools.islice(names, math.ceil(tokens / TRACE_BLOCK)))
            found.append(Arrival(at_s, prompt_of(tokens, blocks), answer, answer))
        return found

    def scaled(self, prompts: float = 1.0, answers: float = 1.0) -> "MadeUp":
        return MadeUp(self.kinds, self.rate, self.text, self.prompts * prompts, self.answers * answers)


@dataclass(frozen=True)
class Recorded:
    """Requests with times of their own, from the first to the last."""

    recorded: Sequence[Arrival]
    text: str

    @property
    def rate(self) -> float:
        span_s = self.recorded[-1].at_s - self.recorded[0].at_s
        return (len(self.recorded) - 1) / span_s if span_s > 0 else 1.0

    def arrivals(self, rate: float, requests: int, seed: int) -> list[Arrival]:
        stretch, first_s = self.rate / rate, self.recorded[0].at_s
        return [
            Arrival((each.at_s - first_s) * stretch, each.prompt, each.output_tokens, each.output_tokens)
            for each in self.recorded[:requests]
        ]

    def scaled(self, prompts: float = 1.0, answers: float = 1.0) -> "Recorded":
        """As much is shared as before: the blocks get longer with the prompts."""
        found = [
            Arrival(each.at_s, _scaled(each.prompt, prompts), _times(each.output_tokens, answers))
            for each in self.recorded
        ]
        return Recorded(found, self.text)


def _scaled(prompt: Prompt, times: float) -> Prompt:
    if times == 1.0:
        return prompt
    tokens = _times(prompt.tokens, times)
    shared = min(tokens // BLOCK_TOKENS, int(len(prompt.blocks) * times))
    blocks = [hash((prompt.blocks[int(number / times)], number)) for number in range(shared)]
    return Prompt(tokens, blocks, prompt.block_tokens)


def _times(tokens: int, times: float) -> int:
    return max(1, round(tokens * times))
