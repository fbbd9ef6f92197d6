"""What a step's parts cost, where the shorter one may hide behind the longer one (planner/simulation/costs.py).

Which of them is the longer one decides what a measurement tells of each. So it is assumed, solved as a sum, and assumed
anew by what came out, until that is the same; for each overlap, of which the one with the least errors is taken.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal

from planner.fit import STRICT, Fit, Sample, judged, least_errors, refuse_noise, summed
from planner.simulation.costs import StepCosts

OF_ANSWERS = ("step_s", "sequence_s", "context_token_s")
OF_PROMPTS = ("prompt_token_s", "prompt_pair_s")
OF_REQUESTS = ("request_s",)
LAUNCH = ("launch_s",)
OVERLAPS = (0.0, 0.25, 0.5, 0.75, 1.0)
MOST_ROUNDS = 20

Longer = Literal["answers", "prompts", "launch", "unknown"]


def fit_steps(samples: Sequence[Sample], graph_tokens: int) -> Fit:
    """Args: samples: of prompts, answers, and both in a step. graph_tokens: of the largest step that is a CUDA graph,
    0: none is.

    Returns: with `overlap` among the costs. Raises: NoFit.
    """
    refuse_noise(samples, STRICT.uncertain)
    found = [_alternating(samples, overlap, graph_tokens) for overlap in OVERLAPS]
    costs = min(found, key=lambda each: _errors(samples, each, graph_tokens))
    fitted = [step_time(sample, costs, graph_tokens)[0] for sample in samples]
    return Fit(costs, judged(samples, fitted, STRICT))


def step_time(sample: Sample, costs: Mapping[str, float], graph_tokens: int) -> tuple[float, Longer]:
    """Seconds, and what they are of."""
    steps, tokens = sample.parts.get("step_s", 1.0), math.ceil(_tokens(sample))
    answers_s, prompts_s = (summed(_only(sample, parts), costs) / steps for parts in (OF_ANSWERS, OF_PROMPTS))
    unbounded = StepCosts(overlap=costs["overlap"], graph_tokens=graph_tokens)
    launched = replace(unbounded, launch_s=costs.get("launch_s", 0.0))
    both_s, step_s = (each.of_step(answers_s, prompts_s, tokens) for each in (unbounded, launched))
    longer: Longer = "launch" if step_s > both_s else "answers" if answers_s > prompts_s else "prompts"
    return summed(_only(sample, OF_REQUESTS), costs) + step_s * steps, longer


def _alternating(samples: Sequence[Sample], overlap: float, graph_tokens: int) -> dict[str, float]:
    costs: dict[str, float] = {}
    longer: list[Longer] = [
        "launch" if _is_launched(sample, graph_tokens) and _tokens(sample) <= 2 * graph_tokens else "unknown"
        for sample in samples
    ]
    for _ in range(MOST_ROUNDS):
        assumed = [_as_sum(sample, of, overlap) for sample, of in zip(samples, longer, strict=True)]
        parts = [*OF_REQUESTS, *OF_ANSWERS, *OF_PROMPTS, *(LAUNCH if "launch" in longer else ())]
        costs = {**least_errors(assumed, parts, {}), "overlap": overlap}
        before, longer = longer, [step_time(sample, costs, graph_tokens)[1] for sample in samples]
        if longer == before:
            break
    return costs


def _as_sum(sample: Sample, longer: Longer, overlap: float) -> Sample:
    """The same with as much of each part as takes time."""
    if longer == "launch":
        launched = {"launch_s": sample.parts.get("step_s", 1.0)}
        return replace(sample, parts=_only(sample, OF_REQUESTS).parts | launched)
    hidden = {"answers": OF_PROMPTS, "prompts": OF_ANSWERS, "unknown": ()}[longer]
    parts = {name: many * (1.0 - overlap if name in hidden else 1.0) for name, many in sample.parts.items()}
    return replace(sample, parts=parts)


def _errors(samples: Sequence[Sample], costs: Mapping[str, float], graph_tokens: int) -> float:
    return sum((step_time(sample, costs, graph_tokens)[0] / sample.median - 1.0) ** 2 for sample in samples)


def _is_launched(sample: Sample, graph_tokens: int) -> bool:
    return 0 < graph_tokens < _tokens(sample)


def _tokens(sample: Sample) -> float:
    """Of each of its steps."""
    parts = sample.parts
    return parts.get("prompt_token_s", 0.0) / parts.get("step_s", 1.0) + parts.get("sequence_s", 0.0)


def _only(sample: Sample, parts: Sequence[str]) -> Sample:
    return replace(sample, parts={name: many for name, many in sample.parts.items() if name in parts})
