"""The profile from what was measured: first what an instance does by itself, then what two do together.

The second beside the steps of the first, so that what is small counts as part of the step that it is in. It is less
certain: whether a cache arrives in time for a step is chance, and two instances of one GPU or core hinder each other.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median

from benchmarks.profile.asking import Limits
from benchmarks.profile.crowded import Crowded, Split
from benchmarks.profile.transfers import JOIN, Moved
from planner.fit import Bounds, Sample, fit, refuse_noise
from planner.profile import Crowding, Profile, Step, Transfer

OF_ONE = ("request_s", "step_s", "sequence_s", "context_token_s", "prompt_token_s", "prompt_pair_s")
JOINING = ("join_s", "join_token_s")
OF_STEPS = (*OF_ONE[1:], *JOINING)
OF_CROWDED = ("beside_s", "prompts_beside_answers", "prompts_beside_prompts")
OF_SPLIT = ("split_s", "awaiting")
OF_TWO = (*JOINING, "handover_s", "byte_s")
LENIENT = Bounds(uncertain=0.2, residual=0.35)  # of what two do together
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
    of_one = fit([sample for sample in found.steps if sample.kind != JOIN], OF_ONE)
    joins = [sample for sample in found.steps if sample.kind == JOIN]
    of_two = fit([*joins, *second_tokens(found.moved, limits)], OF_TWO, of_one.costs, LENIENT)
    costs = of_two.costs
    of_split = fit(split_prompts(found.split, costs["request_s"]), OF_SPLIT, {"alone": 1.0}, LENIENT)
    way_s = costs["request_s"] + found.proxy_s
    of_streams = crowding_of_streams(found.crowded)
    of_prompts = fit(crowded_prompts(found.crowded, costs, of_streams), OF_CROWDED, {"explained": 1.0}, LENIENT)
    byte_s = costs["byte_s"]
    transfer = Transfer(
        bytes_per_s=1 / byte_s if byte_s > 1 / NO_BOUND else NO_BOUND, latency_s=0.0, handover_s=costs["handover_s"]
    )
    return Profile(
        conditions=conditions,
        step=Step(**{name: costs[name] for name in OF_STEPS}),
        residuals=of_one.residuals | of_two.residuals | of_split.residuals | of_prompts.residuals,
        bytes_per_token=median(each.bytes_per_token for each in found.moved),
        transfers={found.moved[0].transport: transfer},
        # Which part of the way is before the engine and which behind it cannot be told from a client.
        before_s=way_s / 2,
        after_s=way_s / 2,
        beside_s=of_prompts.costs["beside_s"],
        split_s=of_split.costs["split_s"],
        kv_tokens=limits.kv_tokens,
        block_tokens=block_tokens,
        step_tokens=limits.step_tokens,
        steps_ahead=steps_ahead,
        crowding=Crowding(**of_streams, **{name: of_prompts.costs[name] for name in OF_CROWDED[1:]}),
        awaiting=of_split.costs["awaiting"],
        jitter_s=jitter([each.gaps_alone_s for each in found.crowded]),
        jitter_beside_s=jitter([each.gaps_beside_s for each in found.crowded]),
    )


def crowding_of_streams(found: Sequence[Crowded]) -> dict[str, float]:
    """By what part their steps take longer, by the name in `Crowding`. Raises: NoFit."""
    refuse_noise([sample for each in found for sample in (each.alone, each.beside)], LENIENT.uncertain)
    return {
        f"answers_beside_{_beside(each)}": max(0.0, each.beside.median / each.alone.median - 1.0)
        for each in found
        if not each.prompt_tokens
    }


def crowded_prompts(
    found: Sequence[Crowded], costs: Mapping[str, float], of_streams: Mapping[str, float]
) -> list[Sample]:
    """A constant, the part that every step has as a stream's has it, and a part of the rest is what they take more."""
    samples = []
    for each in found:
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
    ]


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
