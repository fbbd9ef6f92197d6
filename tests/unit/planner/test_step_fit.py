"""Costs of steps whose shorter part hides behind the longer one, from what such steps take, by hand."""

from dataclasses import replace

import pytest

from planner.fit import NoFit, Sample
from planner.simulation.costs import StepCosts, pairs
from planner.step_fit import fit_steps, step_time

STEP, GRAPH = 2048, 512
REQUEST_S = 0.012
COSTS = StepCosts(0.005, 2e-5, 1.5e-8, 2e-5, 4e-10, launch_s=0.017, graph_tokens=GRAPH)


def samples(true: StepCosts) -> list[Sample]:
    found = []
    for tokens in (16, 64, 256, 512, 1024, 2048, 4096, 8192):
        steps = -(-tokens // STEP)
        prompts_s = true.of_prompts(tokens, pairs(0, tokens)) / steps
        seconds = REQUEST_S + steps * true.of_step(true.step_s, prompts_s, tokens // steps)
        parts = {"request_s": 1.0, "step_s": steps, "prompt_token_s": tokens, "prompt_pair_s": pairs(0, tokens)}
        found.append(Sample("prefill", f"{tokens} tokens", [seconds] * 5, parts))
    for sequences in (1, 8, 64):
        for context in (100, 4000):
            seconds = true.of_answers(sequences, sequences * context)
            parts = {"step_s": 1.0, "sequence_s": sequences, "context_token_s": sequences * context}
            found.append(Sample("decode", f"{sequences} streams", [seconds] * 5, parts))
    for tokens in (256, 512, 1024):
        seconds = true.of_step(true.of_answers(4, 400), true.of_prompts(tokens, pairs(0, tokens)), tokens + 4)
        parts = {"step_s": 1.0, "sequence_s": 4.0, "context_token_s": 400.0}
        parts |= {"prompt_token_s": tokens, "prompt_pair_s": pairs(0, tokens)}
        found.append(Sample("mixed", f"{tokens} beside streams", [seconds] * 5, parts))
    return found


@pytest.mark.parametrize("overlap", [0.0, 0.5, 1.0])
def test_exact_measurements_give_the_costs_back(overlap: float) -> None:
    true = replace(COSTS, overlap=overlap)
    found = fit_steps(samples(true), GRAPH)
    expected = {name: getattr(true, name) for name in found.costs if name != "request_s"}
    assert found.costs == pytest.approx({**expected, "request_s": REQUEST_S}, rel=1e-6)
    assert max(each.worst for each in found.residuals.values()) < 1e-6


def test_without_graphs_nothing_is_launched() -> None:
    found = fit_steps(samples(replace(COSTS, launch_s=0.0, overlap=1.0)), 0)
    assert "launch_s" not in found.costs
    assert found.costs["overlap"] == 1.0
    assert found.costs["prompt_token_s"] == pytest.approx(2e-5, rel=1e-6)


def test_the_longer_part_is_told() -> None:
    """A prompt of 100 tokens: 5 ms behind 5 ms of answers; of 1,000: 20 ms, before 5; of 600: at least 17 ms."""
    costs = {"request_s": 1.0, "step_s": 0.005, "prompt_token_s": 2e-5, "overlap": 0.5, "launch_s": 0.017}

    def of(tokens: int) -> tuple[str, object]:
        sample = Sample("mixed", "", [1.0] * 3, {"request_s": 1.0, "step_s": 1.0, "prompt_token_s": tokens})
        seconds, longer = step_time(sample, costs, GRAPH)
        return longer, seconds

    assert of(100) == ("answers", pytest.approx(1.0 + 0.005 + 0.001))
    assert of(1000) == ("prompts", pytest.approx(1.0 + 0.020 + 0.0025))
    assert of(600) == ("launch", pytest.approx(1.0 + 0.017))


def test_steps_that_are_no_such_sum_are_refused() -> None:
    wild = [
        replace(each, seconds=[each.seconds[0] * (3 if number % 2 else 1)] * 3)
        for number, each in enumerate(samples(COSTS))
    ]
    with pytest.raises(NoFit, match="the fit is"):
        fit_steps(wild, GRAPH)
    with pytest.raises(NoFit, match="uncertain by"):
        fit_steps([replace(samples(COSTS)[0], seconds=[0.1, 0.2, 0.3])], GRAPH)
