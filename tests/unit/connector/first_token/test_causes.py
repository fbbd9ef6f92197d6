"""For which requests a consumer's vLLM computes the first token itself."""

from types import SimpleNamespace
from typing import Any

import pytest

from connector.first_token import causes
from connector.first_token.causes import Engine, is_the_last, stops_too_early

V1, V2 = Engine(counts_output=False), Engine(counts_output=True)
EOS, STOP = 2, 9
PLAIN = {
    "num_logprobs": None,
    "prompt_logprobs": None,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
    "repetition_penalty": 1.0,
    "seed": None,
    "min_tokens": 0,
    "bad_words_token_ids": None,
    "thinking_token_budget": None,
    "eos_token_id": EOS,
    "stop_token_ids": [STOP],
    "all_stop_token_ids": {EOS, STOP},
}


def request(params: dict[str, Any] | None = None, **more: Any) -> Any:
    fields = {
        "sampling_params": SimpleNamespace(**(PLAIN | (params or {}))),
        "resumable": False,
        "prompt_token_ids": [1, 2, 3],
        "prompt_is_token_ids": None,
        "use_structured_output": False,
        "num_tokens": 3,
        "max_tokens": 5,
    }
    return SimpleNamespace(**(fields | more))


@pytest.mark.parametrize("engine", [V1, V2])
def test_the_producers_will_do(engine: Engine) -> None:
    assert engine.why_not(request()) == ""
    assert engine.why_not(request(use_structured_output=True)) == ""


@pytest.mark.parametrize(
    ("params", "cause"),
    [
        ({"presence_penalty": -1.0}, causes.PENALTIES),
        ({"frequency_penalty": 0.1}, causes.PENALTIES),
        ({"repetition_penalty": 1.1}, causes.PENALTIES),
        ({"seed": 0}, causes.SEED),
        ({"min_tokens": 1}, causes.MIN_TOKENS),
        ({"bad_words_token_ids": [[4]]}, causes.BAD_WORDS),
        ({"thinking_token_budget": 0}, causes.BUDGET),
    ],
)
def test_what_needs_a_runner_that_counts_output(params: dict[str, Any], cause: str) -> None:
    assert V1.why_not(request(params)) == cause
    assert V2.why_not(request(params)) == ""


@pytest.mark.parametrize("counts_output", [True, False])
@pytest.mark.parametrize(
    ("params", "more", "engine", "cause"),
    [
        ({"num_logprobs": 0}, {}, {}, causes.LOG_PROBABILITIES),
        ({"prompt_logprobs": 0}, {}, {}, causes.LOG_PROBABILITIES),
        ({}, {"prompt_token_ids": None}, {}, causes.EMBEDDINGS),
        ({}, {"prompt_is_token_ids": [True, False, True]}, {}, causes.EMBEDDINGS),
        ({}, {"resumable": True}, {}, causes.SESSION),
        ({}, {"sampling_params": None}, {}, causes.SESSION),
        ({}, {"use_structured_output": True}, {"reasons": True}, causes.REASONING_GRAMMAR),
        ({}, {}, {"speculates": True}, causes.SPECULATION),
        ({}, {}, {"returns_sampling_mask": True}, causes.SAMPLING_MASK),
    ],
)
def test_what_no_runner_can(
    params: dict[str, Any], more: dict[str, Any], engine: dict[str, bool], cause: str, counts_output: bool
) -> None:
    assert Engine(counts_output, **engine).why_not(request(params, **more)) == cause


def test_the_operators_own_processors_may_count() -> None:
    assert Engine(counts_output=False, has_processors=True).why_not(request()) == causes.PROCESSORS
    assert Engine(counts_output=True, has_processors=True).why_not(request()) == ""


@pytest.mark.parametrize(("least", "token", "early"), [(0, EOS, False), (1, EOS, True), (1, STOP, True), (1, 5, False)])
def test_a_stop_token_under_min_tokens(least: int, token: int, early: bool) -> None:
    assert stops_too_early(request({"min_tokens": least}).sampling_params, token) is early


@pytest.mark.parametrize(
    ("token", "more", "longest", "last"),
    [
        (5, {}, 100, False),
        (EOS, {}, 100, True),
        (STOP, {}, 100, True),
        (5, {"max_tokens": 1}, 100, True),
        (5, {}, 4, True),
        (5, {}, 5, False),
    ],
)
def test_the_last_token(token: int, more: dict[str, Any], longest: int, last: bool) -> None:
    assert is_the_last(request(**more), token, longest) is last
