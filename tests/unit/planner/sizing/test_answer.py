"""Answers that follow from costs one can compute with."""

from dataclasses import replace

import pytest

from loadtest.figures.slo import Slo
from planner.profile import Step
from planner.sizing.answer import Answer, Change, Row, Stand, answer
from planner.sizing.capacity import Case, Effort, Objective
from planner.sizing.splits import Split, Variant, splits
from planner.sizing.workload import Kind, MadeUp
from proxy.routing.dispatch import SPLIT_ALL
from tests.unit.planner.profiles import profile

EFFORT = Effort(requests=80, seconds=0.0, precision=0.2)


def case(prompt: int, output: int, slo: Slo, rate: float = 2.0, **step: float) -> Case:
    costs = {"step_s": 0.01, "sequence_s": 0.0, "context_token_s": 0.0, "prompt_token_s": 1e-4, "prompt_pair_s": 0.0}
    workload = MadeUp((Kind(1.0, lambda dice: prompt, lambda dice: output),), rate, "traffic")
    variant = Variant(profile(step=Step.model_validate({**costs, **step}), kv_tokens=1_000_000), SPLIT_ALL)
    return Case(workload, variant, Objective(slo), EFFORT)


def test_every_split() -> None:
    assert [str(split) for split in splits(4)] == ["4 aggregated", "1P3D", "2P2D", "3P1D"]
    assert [str(split) for split in splits(1)] == ["1 aggregated"]
    assert Split(1, 3).words == "1 producer and 3 consumers"


def test_the_largest_rate_of_prompts_alone() -> None:
    """A prompt of 2,000 takes 0.21 s: one server computes 4.76 a second, and fewer within 2 s each."""
    asked = case(2000, 1, Slo(ttft_s=2.0))
    found = asked.largest_rate(Split(0, 0, 1), 1.0)
    assert 3.0 < found < 4.8
    assert asked.largest_rate(Split(0, 0, 2), 1.0) > 1.7 * found
    assert asked.largest_rate(Split(2, 1), 1.0) > 1.7 * found  # the consumer has nothing to do


def test_a_bound_that_a_lone_request_breaks_is_kept_at_no_rate() -> None:
    assert case(2000, 1, Slo(ttft_s=0.2)).largest_rate(Split(0, 0, 4), 1.0) == 0.0


def test_steady_answers_beside_long_prompts_speak_for_disaggregation() -> None:
    """An aggregated step with a prompt takes 0.21 s, and gaps may take 0.05 s."""
    found = answer(case(2000, 40, Slo(ttft_s=3.0, itl_s=0.05)), 2, with_changes=False)
    assert found.stand is Stand.FOR
    assert str(found.chosen.split) == "1P1D"
    assert found.aggregated.largest_per_s < 1.0


def test_long_answers_to_short_prompts_do_not() -> None:
    """The prompts are nothing, and one of the two instances would hardly do anything."""
    found = answer(case(50, 200, Slo(ttft_s=1.0, tpot_s=0.03), sequence_s=0.001), 2, with_changes=False)
    assert found.stand is Stand.AGAINST
    assert str(found.chosen.split) == "2 aggregated"
    assert found.gain is not None
    assert found.gain < 0.8


def test_one_instance_cannot_be_split() -> None:
    found = answer(case(50, 20, Slo(ttft_s=1.0)), 1)
    assert (found.stand, found.pairs, found.gain, found.changes) == (Stand.AGAINST, None, None, ())


def test_an_objective_that_nobody_keeps() -> None:
    assert answer(case(2000, 5, Slo(ttft_s=0.1)), 2).stand is Stand.NEITHER


def test_what_would_change_the_answer() -> None:
    """Producers bound the pairs: with prompts a quarter as long both of the aggregated servers serve more."""
    lines: list[str] = []
    found = answer(case(2000, 40, Slo(ttft_s=3.0, itl_s=0.05)), 2, tell=lines.append)
    by_change = {(each.axis, each.factor): each for each in found.changes}
    assert len(by_change) == 10
    assert by_change["prompts", 0.25].pairs_per_s > 2 * by_change["prompts", 2.0].pairs_per_s
    assert by_change["bandwidth", 0.01].pairs_per_s <= 1.1 * (found.pairs.largest_per_s if found.pairs else 0.0)
    assert found.is_sure
    assert len(lines) == 12


def row(split: Split, largest_per_s: float) -> Row:
    asked = case(50, 5, Slo()).at(Split(0, 0, 1), 1.0)
    return Row(split, asked, largest_per_s)


def test_break_even_lies_between_two_factors() -> None:
    rows = [row(Split(0, 0, 2), 10.0), row(Split(1, 1), 20.0)]
    gains = {0.25: 0.5, 0.5: 1.0, 2.0: 4.0, 4.0: 8.0}
    changes = [Change("prompts", factor, Split(1, 1), gain, 1.0) for factor, gain in gains.items()]
    found = Answer(5.0, rows, changes)
    assert (found.gain, found.stand) == (2.0, Stand.FOR)
    assert found.break_even("prompts") == pytest.approx(0.5)
    assert found.break_even("answers") is None


def test_break_even_where_pairs_bear_nothing_any_more() -> None:
    """Between a tenth of the bandwidth, where they bear twice as much, and a hundredth, where they bear nothing."""
    rows = [row(Split(0, 0, 2), 10.0), row(Split(1, 1), 20.0)]
    changes = [Change("bandwidth", 0.1, Split(1, 1), 20.0, 10.0), Change("bandwidth", 0.01, Split(1, 1), 0.0, 10.0)]
    assert Answer(5.0, rows, changes).break_even("bandwidth") == pytest.approx(10**-1.5)
    nothing = Answer(5.0, rows, [Change("bandwidth", 0.01, Split(1, 1), 0.0, 0.0)])
    assert nothing.break_even("bandwidth") is None


@pytest.mark.parametrize(
    ("pairs_per_s", "itl_p99", "ttft_p50", "stand"),
    [
        (11.5, 1.0, 1.0, Stand.FOR),
        (8.5, 0.1, 0.1, Stand.AGAINST),
        (10.5, 0.5, 1.0, Stand.FOR),
        (10.5, 0.5, 2.0, Stand.EXCHANGE),
        (10.5, 1.0, 2.0, Stand.AGAINST),
        (10.5, 1.05, 0.95, Stand.EVEN),
    ],
)
def test_the_stand(pairs_per_s: float, itl_p99: float, ttft_p50: float, stand: Stand) -> None:
    aggregated, pairs = row(Split(0, 0, 2), 10.0), row(Split(1, 1), pairs_per_s)

    def with_times(of: Row, itl: float, ttft: float) -> Row:
        asked = of.asked.model_copy(
            update={
                "itl_s": of.asked.itl_s.model_copy(update={"p99": itl}),
                "ttft_s": of.asked.ttft_s.model_copy(update={"p50": ttft}),
            }
        )
        return replace(of, asked=asked)

    found = Answer(5.0, [with_times(aggregated, 1.0, 1.0), with_times(pairs, itl_p99, ttft_p50)])
    assert found.stand is stand
    assert found.chosen.split == (Split(1, 1) if stand is Stand.FOR else Split(0, 0, 2))


def test_an_error_that_could_turn_it_round() -> None:
    rows = [row(Split(0, 0, 2), 10.0), row(Split(1, 1), 12.0)]
    assert Answer(5.0, rows, (), 1.05).is_sure
    assert Answer(5.0, rows, (), 0.95).is_sure is False
    assert Answer(5.0, rows).is_sure is None
