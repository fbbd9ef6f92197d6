"""Requests at any rate, longer and shorter."""

import pytest

from planner.sizing.workload import Kind, MadeUp, Recorded
from planner.trace import Arrival, prompt_of

MIXTURE = MadeUp(
    (Kind(0.75, lambda dice: 64, lambda dice: 400), Kind(0.25, lambda dice: 8000, lambda dice: 16)), 2.0, ""
)
CHAT = Recorded(
    [
        Arrival(10.0, prompt_of(1100, [1, 2, 3]), 50),
        Arrival(11.0, prompt_of(1100, [1, 2, 4]), 50),
        Arrival(14.0, prompt_of(600, [9, 10]), 10),
    ],
    "a chat",
)


def test_a_mixture_comes_at_the_rate_and_in_its_shares() -> None:
    found = MIXTURE.arrivals(5.0, 2000, seed=3)
    assert found == MIXTURE.arrivals(5.0, 2000, seed=3)
    assert len(found) / found[-1].at_s == pytest.approx(5.0, rel=0.1)
    assert sum(each.prompt.tokens == 8000 for each in found) / 2000 == pytest.approx(0.25, abs=0.03)
    assert {(each.prompt.tokens, each.output_tokens, each.output_limit) for each in found} == {
        (64, 400, 400),
        (8000, 16, 16),
    }
    assert len({each.prompt.blocks[0] for each in found if each.prompt.blocks}) == sum(
        bool(each.prompt.blocks) for each in found
    )


def test_longer_and_shorter() -> None:
    found = MIXTURE.scaled(prompts=2.0).scaled(answers=0.1).arrivals(1.0, 50, seed=1)
    assert {(each.prompt.tokens, each.output_tokens) for each in found} == {(128, 40), (16000, 2)}


def test_a_recorded_rate_is_stretched() -> None:
    assert CHAT.rate == 0.5
    assert [each.at_s for each in CHAT.arrivals(1.0, 3, seed=1)] == [0.0, 0.5, 2.0]
    assert len(CHAT.arrivals(1.0, 2, seed=1)) == 2


@pytest.mark.parametrize("times", [0.5, 1.0, 2.0, 3.7])
def test_as_much_is_shared_of_longer_prompts(times: float) -> None:
    one, other, alone = CHAT.scaled(prompts=times).recorded
    shared = sum(a == b for a, b in zip(one.prompt.blocks, other.prompt.blocks, strict=True))
    assert one.prompt.tokens == round(1100 * times)
    assert shared * 128 / (1024 * times) == pytest.approx(1.0, abs=0.13)
    assert one.prompt.blocks[:shared] == other.prompt.blocks[:shared]
    assert not set(alone.prompt.blocks) & set(one.prompt.blocks)
