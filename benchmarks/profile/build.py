"""The profile from what was measured: first what an instance does by itself, then what two do together.

The second beside the steps of the first, so that what is small counts as part of the step that it is in. It is less
certain: whether a cache arrives in time for a step is chance, and two instances of one GPU or core hinder each other.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median

from benchmarks.profile.asking import ANSWER, CONTEXT, Limits
from benchmarks.profile.crowded import STREAMS_EACH, Crowded, Split
from benchmarks.profile.transfers import JOIN, Moved
from planner.fit import Bounds, Fit, Sample, fit, refuse_noise, uncertainty
from planner.profile import BESIDE, Crowding, Profile, Residual, Step, Transfer
from planner.step_fit import fit_steps

JOINING = ("join_s", "join_token_s")
OF_CROWDED = ("beside_s", "prompts_beside_answers", "prompts_beside_prompts")
OF_SPLIT = ("split_s", "awaiting")
OF_SPLIT_BESIDE = ("split_beside_s",)
OF_TWO = (*JOINING, "handover_s", "byte_s")
LENIENT = Bounds(uncertain=0.2, residual=0.35)  # of what two do together
MOST_LEFT_OUT = 0.25  # of what two do together, because their repeats do not tell it
EQUALLY_LIKELY = 200  # values of a jitter, of which the P99 is to be seen
NO_BOUND = 1e15  # bytes/s where more bytes do not take longer


@dataclass(frozen=True)
class Measurements:
    """steps: of prompts, streams, both, and what joins them. proxy_s: that the proxy adds to a first token."""

    steps: Sequence[Sample]
    moved: Sequence[Moved]
    crowded: Sequence[Crowded]
    split: Sequence[Split]
    proxy_s: float


def build(
    found: Measurements, limits: Limits, block_tokens: int, steps_ahead: int, conditions: dict[str, str]
) -> Profile:
    """Raises: NoFit: what was measured is noise, or no costs describe it."""
    of_one = fit_steps([sample for sample in found.steps if sample.kind != JOIN], limits.graph_tokens)
    joins = [sample for sample in found.steps if sample.kind == JOIN]
    told, untold = told_by_repeats([*joins, *second_tokens(found.moved, limits)])
    of_two = fit(told, OF_TWO, of_one.costs, LENIENT)
    costs, crowding = of_two.costs, crowding_of_streams(found.crowded)
    of_prompts = fit(crowded_prompts(found, costs, crowding), OF_CROWDED, {"explained": 1.0}, LENIENT)
    crowding |= {name: of_prompts.costs[name] for name in OF_CROWDED[1:]}
    of_split = fit(split_prompts(found.split, costs["request_s"]), OF_SPLIT, {"alone": 1.0}, LENIENT)
    of_split_beside = split_beside_streams(found.split, costs, crowding)
    residuals: dict[str, Residual] = {}
    for each in (of_one, of_two, of_prompts, of_split, of_split_beside):
        residuals |= each.residuals
    way_s, byte_s = costs["request_s"] + found.proxy_s, costs["byte_s"]
    transfer = Transfer(
        bytes_per_s=1 / byte_s if byte_s > 1 / NO_BOUND else NO_BOUND, latency_s=0.0, handover_s=costs["handover_s"]
    )
    of_steps = {name: costs[name] for name in Step.model_fields if name in costs}
    return Profile(
        conditions=conditions | ({"left out": ", ".join(untold)} if untold else {}),
        step=Step(**of_steps, graph_tokens=limits.graph_tokens),
        residuals=residuals,
        bytes_per_token=median(each.bytes_per_token for each in found.moved),
        transfers={found.moved[0].transport: transfer},
        # Which part of the way is before the engine and which behind it cannot be told from a client.
        before_s=way_s / 2,
        after_s=way_s / 2,
        beside_s=of_prompts.costs["beside_s"],
        split_s=of_split.costs["split_s"],
        split_beside_s=of_split_beside.costs.get("split_beside_s"),
        kv_tokens=limits.kv_tokens,
        block_tokens=block_tokens,
        step_tokens=limits.step_tokens,
        steps_ahead=steps_ahead,
        crowding=Crowding(**crowding),
        awaiting=of_split.costs["awaiting"],
        jitter_s=jitter([each.gaps_alone_s for each in found.crowded]),
        jitter_beside_s=jitter([each.gaps_beside_s for each in found.crowded]),
    )


def told_by_repeats(samples: Sequence[Sample]) -> tuple[list[Sample], list[str]]:
    """Those of which the repeats tell the median, and what the others are, if they are few; else all."""
    told = [sample for sample in samples if uncertainty(sample.seconds) <= LENIENT.uncertain]
    if len(told) < (1 - MOST_LEFT_OUT) * len(samples):
        return list(samples), []
    return told, [sample.what for sample in samples if sample not in told]


def crowding_of_streams(found: Sequence[Crowded]) -> dict[str, float]:
    """By what part their steps take longer, by the name in `Crowding`. Raises: NoFit."""
    refuse_noise([sample for each in found for sample in (each.alone, each.beside)], LENIENT.uncertain)
    return {
        f"answers_beside_{_beside(each)}": max(0.0, each.beside.median / each.alone.median - 1.0)
        for each in found
        if not each.prompt_tokens
    }


def crowded_prompts(found: Measurements, costs: Mapping[str, float], of_streams: Mapping[str, float]) -> list[Sample]:
    """A constant, the part that every step has as a stream's has it, and a part of the rest is what they take more."""
    alone = {each.prompt_tokens: each.alone for each in found.split if not each.beside_streams}
    of_producers = [
        Crowded(each.prompt_tokens, False, alone[each.prompt_tokens], replace(each.alone, kind=BESIDE))
        for each in found.split
        if each.beside_streams
    ]
    samples = []
    for each in (*found.crowded, *of_producers):
        if each.prompt_tokens:
            alone_s, step_s = each.alone.median, costs["step_s"]
            explained_s = alone_s + step_s * of_streams[f"answers_beside_{_beside(each)}"]
            rest_s = alone_s - step_s - costs["request_s"]
            parts = {"explained": explained_s, "beside_s": 1.0, f"prompts_beside_{_beside(each)}": rest_s}
            samples.append(replace(each.beside, parts=parts))
    return samples


def _beside(each: Crowded) -> str:
    return "prompts" if each.beside_prompts else "answers"


def split_prompts(found: Sequence[Split], request_s: float) -> list[Sample]:
    """A constant and a part of the steps is what they take more."""
    return [
        replace(
            each.both, parts={"alone": each.alone.median, "split_s": 1.0, "awaiting": each.alone.median - request_s}
        )
        for each in found
        if not each.beside_streams
    ]


def split_beside_streams(found: Sequence[Split], costs: Mapping[str, float], crowding: Mapping[str, float]) -> Fit:
    """A constant is what they take more, and half of the step of which the consumer passes them on at the end.

    Without costs where it was not measured, as in values of before it was.
    """
    context = STREAMS_EACH * (CONTEXT + ANSWER / 2)
    step_s = costs["step_s"] + costs["sequence_s"] * STREAMS_EACH + costs["context_token_s"] * context
    waits_s = step_s * (1 + crowding["answers_beside_prompts"]) / 2
    samples = [
        replace(each.both, kind="split beside", parts={"explained": each.alone.median + waits_s, "split_beside_s": 1.0})
        for each in found
        if each.beside_streams
    ]
    return fit(samples, OF_SPLIT_BESIDE, {"explained": 1.0}, LENIENT) if samples else Fit({}, {})


def jitter(gaps_s: Sequence[Sequence[float]]) -> tuple[float, ...]:
    """What steps take more or less than the median of those measured together, from the least to the most."""
    found = sorted(gap - median(each) for each in gaps_s if each for gap in each)
    if len(found) <= EQUALLY_LIKELY:
        return tuple(found)
    return tuple(found[int((number + 0.5) / EQUALLY_LIKELY * len(found))] for number in range(EQUALLY_LIKELY))


def second_tokens(moved: Sequence[Moved], limits: Limits) -> list[Sample]:
    """Behind the first one, which is the producer's: the bytes of the last step's tokens, the handover, and a step."""
    return [
        Sample(
            "transfer",
            f"the second token behind a transfer of {each.tokens:,} tokens",
            each.second_s,
            {
                "handover_s": 1.0,
                "byte_s": (each.tokens % limits.step_tokens or limits.step_tokens) * each.bytes_per_token,
                "step_s": 1.0,
                "sequence_s": 1.0,
                "context_token_s": each.tokens,
                "join_s": 1.0,
                "join_token_s": each.tokens,
            },
        )
        for each in moved
    ]
