"""How many tokens a prompt or an answer has: a number, or a distribution written as text.

256                     always so many
uniform:100-500         every length from 100 to 500 equally often
normal:1000,200         mean and standard deviation
lognormal:1000,0.5      median, and standard deviation of the logarithm: the shape of real prompts, with a long tail
"""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

_NUMBER = r"(\d+(?:\.\d+)?)"
_FORMS = "expected a number of tokens, uniform:100-500, normal:mean,deviation or lognormal:median,sigma"


@dataclass(frozen=True, slots=True)
class Lengths:
    """`typical` is the median; `draw` gives whole tokens, at least 1."""

    typical: int
    draw: Callable[[Random], int]


def parse(text: str) -> Lengths:
    """Raises: ValueError: the text is none of the forms above."""
    if re.fullmatch(r"\d+", text):
        return _always(int(text))
    if matched := re.fullmatch(r"uniform:(\d+)-(\d+)", text):
        return _uniform(int(matched[1]), int(matched[2]))
    if matched := re.fullmatch(rf"(normal|lognormal):{_NUMBER},{_NUMBER}", text):
        return (_normal if matched[1] == "normal" else _lognormal)(float(matched[2]), float(matched[3]))
    raise ValueError(_FORMS)


def _always(tokens: int) -> Lengths:
    if tokens < 1:
        raise ValueError("expected at least 1 token")
    return Lengths(tokens, lambda _: tokens)


def _uniform(shortest: int, longest: int) -> Lengths:
    if not 1 <= shortest <= longest:
        raise ValueError("expected uniform:shortest-longest with 1 <= shortest <= longest")
    return Lengths((shortest + longest) // 2, lambda rng: rng.randint(shortest, longest))


def _normal(mean: float, deviation: float) -> Lengths:
    if mean < 1:
        raise ValueError("expected a mean of at least 1 token")
    return Lengths(round(mean), lambda rng: max(1, round(rng.gauss(mean, deviation))))


def _lognormal(median: float, sigma: float) -> Lengths:
    if median < 1:
        raise ValueError("expected a median of at least 1 token")
    if sigma > 10:
        raise ValueError("expected a sigma of at most 10; 0.5 to 1.5 are usual")
    return Lengths(round(median), lambda rng: max(1, round(median * math.exp(rng.gauss(0, sigma)))))
