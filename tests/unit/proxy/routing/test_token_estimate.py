"""What answers teach about the size of prompts and outputs."""

import pytest

from proxy.request.prompt import Prompt
from proxy.routing.token_estimate import TokenEstimate


def learned(*answers: tuple[int, int], output_tokens: int = 10) -> TokenEstimate:
    """answers: the prompt's bytes and its tokens."""
    estimate = TokenEstimate()
    for text_bytes, tokens in answers:
        estimate.learn("m", Prompt(text_bytes=text_bytes), tokens, output_tokens)
    return estimate


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ([], 4.0),
        ([(3000, 1000)] * 100, 3.0),
        ([(3000, 1000)] * 100 + [(9000, 1000)] * 100, 9.0),
        ([(16, 40)] * 100, 4.0),
        ([(0, 1000)] * 100, 4.0),
        ([(30_000, 10_000), (300, 300)] * 100, 3.0),
    ],
    ids=["nothing", "all alike", "the last ones", "too short", "token ids or images", "a short one weighs little"],
)
def test_bytes_per_token(answers: list[tuple[int, int]], expected: float) -> None:
    assert learned(*answers).bytes_per_token("m") == pytest.approx(expected, rel=0.04)


@pytest.mark.parametrize(("limit", "expected"), [(None, 100), (5, 5), (5000, 100), (-1, 0)])
def test_output_tokens(limit: int | None, expected: int) -> None:
    estimate = learned(*[(0, 0)] * 200, output_tokens=100)
    assert estimate.output_tokens("m", limit) == expected


def test_models_are_apart_and_unknown_ones_are_not_kept() -> None:
    estimate = learned(*[(3000, 1000)] * 100)
    assert estimate.bytes_per_token("invented") == 4.0
    assert estimate.output_tokens("invented", None) == 256
    assert list(estimate._averages) == ["m"]
