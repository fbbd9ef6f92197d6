"""Costs are found again from what they make, and noise is refused."""

from dataclasses import replace
from random import Random

import pytest

from planner.fit import STRICT, Bounds, NoFit, Sample, fit, uncertainty

PARTS = ("request_s", "step_s", "sequence_s", "context_token_s", "prompt_token_s", "prompt_pair_s")
COSTS = {
    "request_s": 0.012,
    "step_s": 0.005,
    "sequence_s": 2e-5,
    "context_token_s": 1.5e-8,
    "prompt_token_s": 2e-5,
    "prompt_pair_s": 4e-10,
}


def sample(kind: str, noise: float = 0.0, dice: Random | None = None, **parts: float) -> Sample:
    seconds = sum(COSTS[part] * many for part, many in parts.items())
    dice = dice or Random(1)
    return Sample(kind, f"{kind} {parts}", [seconds * (1 + dice.uniform(-noise, noise)) for _ in range(5)], parts)


def samples(noise: float = 0.0) -> list[Sample]:
    dice = Random(4)
    found = []
    for tokens in (16, 256, 1024, 2048, 4096, 16384):
        steps = -(-tokens // 2048)
        parts = {"request_s": 1.0, "step_s": steps, "prompt_token_s": tokens, "prompt_pair_s": tokens * tokens / 2}
        found.append(sample("prefill", noise, dice, **parts))
    for sequences in (1, 4, 16, 64):
        for context in (100, 4000):
            parts = {"step_s": 1.0, "sequence_s": sequences, "context_token_s": sequences * context}
            found.append(sample("decode", noise, dice, **parts))
    for tokens in (256, 1900):
        parts = {"step_s": 1.0, "sequence_s": 4.0, "context_token_s": 400.0, "prompt_token_s": tokens}
        found.append(sample("mixed", noise, dice, **parts))
    return found


def test_exact_measurements_give_the_costs_back() -> None:
    found = fit(samples(), PARTS)
    assert found.costs == pytest.approx(COSTS, rel=1e-6)
    assert {kind: each.samples for kind, each in found.residuals.items()} == {"prefill": 6, "decode": 8, "mixed": 2}
    assert all(each.worst < 1e-6 for each in found.residuals.values())


def test_a_little_noise_is_in_the_residuals() -> None:
    found = fit(samples(noise=0.05), PARTS)
    assert found.costs["prompt_token_s"] == pytest.approx(COSTS["prompt_token_s"], rel=0.1)
    assert 0 < found.residuals["decode"].median < 0.05


def test_no_cost_is_negative() -> None:
    """Longer contexts that seem to take less time take none."""
    odd = [
        replace(each, seconds=[second - 2e-8 * each.parts.get("context_token_s", 0.0) for second in each.seconds])
        for each in samples()
    ]
    found = fit(odd, PARTS)
    assert found.costs["context_token_s"] == 0.0
    assert all(cost >= 0 for cost in found.costs.values())


def test_what_is_known_is_not_fitted_again() -> None:
    """Two steps of 10 ms with 2 and 4 joins of 3 ms: known is the step alone, and it stays what it is."""
    both = [
        Sample("join", f"{joins} joins", [0.01 + 0.003 * joins] * 3, {"step_s": 1.0, "join_s": joins})
        for joins in (2, 4)
    ]
    found = fit(both, ("join_s",), {"step_s": 0.01})
    assert found.costs == pytest.approx({"step_s": 0.01, "join_s": 0.003})
    assert found.residuals["join"].worst == pytest.approx(0.0, abs=1e-9)
    # Of 16 and 22 ms nothing is left beside a step of 25.
    assert fit(both, ("join_s",), {"step_s": 0.025}, Bounds(0.1, 1.0)).costs["join_s"] == 0.0


def test_how_uncertain_a_sample_may_be_is_a_bound() -> None:
    loose = Sample("join", "joins", [0.1, 0.09, 0.12, 0.11, 0.1], {"join_s": 1.0})
    assert fit([loose], ("join_s",), bounds=Bounds(0.2, 0.35)).costs["join_s"] == pytest.approx(0.1)
    with pytest.raises(NoFit, match=r"joins: .* uncertain by \d+%, expected at most 4%"):
        fit([loose], ("join_s",), bounds=Bounds(0.04, 0.35))


def test_repeats_that_disagree_are_refused_by_name() -> None:
    noisy = replace(samples()[3], seconds=[0.1, 0.05, 0.2, 0.15, 0.06], what="a prompt of 2,048")
    with pytest.raises(NoFit, match=r"a prompt of 2,048: the median of 5 repeats is uncertain by 37%"):
        fit([*samples(), noisy], PARTS)


def test_how_uncertain_a_median_is() -> None:
    """1 to 5: the middle half spans 2, so 1.48 standard deviations of 1; of five, 0.56 of that, of the median 3."""
    assert uncertainty([1, 2, 3, 4, 5]) == pytest.approx(2 / 1.349 * 0.5605 / 3, rel=1e-3)


def test_what_differs_by_its_nature_is_told_by_more_repeats() -> None:
    dice = Random(7)
    medians, told = [], []
    for _ in range(300):
        repeats = [dice.gauss(1.0, 0.14) for _ in range(15)]
        told.append(uncertainty(repeats))
        medians.append(sorted(repeats)[7])
    spread = (sum((each - 1.0) ** 2 for each in medians) / len(medians)) ** 0.5
    assert sum(told) / len(told) == pytest.approx(spread, rel=0.1)
    assert spread < STRICT.uncertain < uncertainty([0.86, 0.9, 1.0, 1.1, 1.14])


def test_a_fit_that_is_far_off_is_refused() -> None:
    wild = [
        replace(each, seconds=[each.seconds[0] * factor] * 3)
        for each, factor in zip(samples(), (1, 3) * 8, strict=True)
    ]
    with pytest.raises(NoFit, match=r"decode: the fit is \d+% from what was measured"):
        fit(wild, PARTS)


@pytest.mark.parametrize(
    ("bad", "line"),
    [
        ([sample("decode", step_s=1.0)], "1 measurements for 6 costs"),
        ([Sample("decode", "two streams", [0.1, 0.1], {"step_s": 1.0})], "two streams: measured 2 times"),
        ([Sample("decode", "two streams", [0.0] * 5, {"step_s": 1.0})], "two streams: took 0 s"),
    ],
)
def test_too_little_is_refused(bad: list[Sample], line: str) -> None:
    with pytest.raises(NoFit, match=line):
        fit(bad, PARTS)
