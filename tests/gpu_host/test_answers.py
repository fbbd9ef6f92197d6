"""The README's requests, and greedy answers beside a single server's, over every transport that this machine has."""

import random
from typing import Any

import pytest

from tests.compose.project import Project
from tests.compose.test_confinement import service
from tests.compose.test_stack import (
    test_a_streamed_chat_comes_in_pieces,
    test_locusts_page_answers,
)
from tests.gpu_host.stacks import AGGREGATED, COUNTING, DISAGGREGATED, Kind, Stacks, complete

__all__ = [
    "test_a_streamed_chat_comes_in_pieces",
    "test_locusts_page_answers",
]

ANSWER_TOKENS = 48
# Two steps of bfloat16 between 16 and 32, where the likeliest tokens' logits lie. Servers that compute a prompt in
# other batch shapes round otherwise, a single server beside itself too.
TIE = 2 * 0.125

pytestmark = pytest.mark.timeout(3000)


def texts(number: int) -> list[str]:
    """Prompts of about 150 to 2,000 tokens, all beginning differently."""
    words = (
        "river",
        "carries",
        "small",
        "boats",
        "past",
        "seven",
        "quiet",
        "towns",
        "where",
        "people",
        "count",
        "lamps",
    )
    chosen = random.Random(22)
    return [" ".join(chosen.choices(words, k=150 * (1 + index % 12))) + "." for index in range(number)]


@pytest.mark.parametrize("kind", [*DISAGGREGATED, AGGREGATED], ids=str)
def test_every_service_is_healthy_and_none_was_started_twice(stacks: Stacks, kind: Kind) -> None:
    states = {service(each): each["State"] for each in stacks[kind].inspect()}
    assert states.pop("prepare")["ExitCode"] == 0
    assert states.pop("processes")["Running"]
    assert {name: state["Health"]["Status"] for name, state in states.items()} == dict.fromkeys(
        ("etcd", "prefill", "decode", "proxy", "loadtest", "loadtest-worker"), "healthy"
    )
    assert {each["RestartCount"] for each in stacks[kind].inspect()} == {0}


def test_the_short_prompt_of_the_readme_is_answered_by_the_consumer_alone(project: Project) -> None:
    answer = complete(project, "San Francisco is a", max_tokens=1000)
    assert answer.status == 200
    assert answer.headers["X-PD-Path"] == "local"
    assert answer.body["choices"][0]["text"].strip()


@pytest.mark.parametrize("kind", DISAGGREGATED, ids=str)
def test_the_long_prompt_of_the_readme_is_split(stacks: Stacks, kind: Kind) -> None:
    answer = complete(stacks[kind], f"{kind} {COUNTING}", max_tokens=8)
    print({name: value for name, value in answer.headers.items() if name.lower().startswith(("x-pd", "server-timing"))})
    assert answer.status == 200
    assert answer.headers["X-PD-Path"] == "disaggregated"
    assert answer.headers["X-PD-Transport"] == kind.transport
    tokens = answer.body["usage"]["prompt_tokens"]
    assert int(answer.headers["X-PD-Kv-Tokens"]) == tokens > 1000
    moved = answer.body["kv_transfer_params"]
    assert (moved["tokens"], moved["transport"]) == (tokens, kind.transport)
    assert moved["bytes"] == int(answer.headers["X-PD-Kv-Bytes"]) > 0
    assert answer.body["usage"]["prompt_tokens_details"]["cached_tokens"] == 0, "one server would have found none"


@pytest.mark.parametrize("kind", DISAGGREGATED, ids=str)
def test_greedy_answers_are_a_single_servers_but_for_ties(stacks: Stacks, kind: Kind) -> None:
    prompts = texts(24)
    parameters = {"max_tokens": ANSWER_TOKENS, "ignore_eos": True, "logprobs": 5}
    equal = 0
    for prompt in prompts:
        ours = complete(stacks[kind], prompt, **parameters)
        assert ours.headers["X-PD-Transport"] == kind.transport
        single = complete(stacks[AGGREGATED], prompt, **parameters)
        gap = gap_at_first_difference(ours.body["choices"][0]["logprobs"], single.body["choices"][0]["logprobs"])
        equal += gap is None
        assert gap is None or gap <= TIE, f"parted from the single server by {gap} at: {prompt}"
    print(f"{kind}: {equal} of {len(prompts)} answers of {ANSWER_TOKENS} tokens equal; the others part at a tie")
    assert equal >= len(prompts) / 4, "12 of 24 were seen on idle servers, 8 beside other requests"


def gap_at_first_difference(ours: dict[str, Any], single: dict[str, Any]) -> float | None:
    """How much likelier, in the single server's log probabilities, its token was than ours; None: all are equal.

    Infinite where ours was not one of its five likeliest.
    """
    for mine, theirs, likeliest in zip(ours["tokens"], single["tokens"], single["top_logprobs"], strict=True):
        if mine != theirs:
            return float(likeliest[theirs] - likeliest.get(mine, float("-inf")))
    return None
