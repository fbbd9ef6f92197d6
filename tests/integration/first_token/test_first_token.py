"""The first token is the producer's where it can be, and every answer is a plain server's."""

from collections import Counter
from typing import Any

import pytest

from connector.first_token import causes
from tests.integration.caches.servers import Trio
from tests.integration.first_token.legs import PRODUCER, Legs, Request
from tests.real_stack import metrics

LENGTHS = [1, 2, 31, 32, 33, 63, 64, 65, 127, 128, 129, 300, 700]


async def test_every_length(trio: Trio, legs: Legs) -> None:
    before = await legs.counted()
    for prompt in trio.prompts("lengths", LENGTHS):
        request = Request(prompt)
        assert await legs.both(request) == await legs.expected(request), len(prompt)
    assert await legs.counted() - before == Counter({PRODUCER: len(LENGTHS)})


async def test_many_at_once(trio: Trio, legs: Legs) -> None:
    before = await legs.counted()
    requests = [Request(prompt) for prompt in trio.prompts("at once", [100, 160, 64, 33, 200, 129])]
    assert await legs.all(requests) == [await legs.expected(request) for request in requests]
    assert await legs.counted() - before == Counter({PRODUCER: len(requests)})


async def test_one_that_was_here_before(trio: Trio, legs: Legs) -> None:
    """All whole blocks but the last are in the consumer's cache."""
    (prompt,) = trio.prompts("again", [128])
    before = await legs.counted()
    answers = [await legs.both(Request(prompt)) for _ in range(3)]
    assert answers == [await legs.expected(Request(prompt))] * 3
    assert await legs.counted() - before == Counter({PRODUCER: 3})


@pytest.mark.parametrize("more", [{"max_tokens": 1}, {"stop_token_ids": "first"}], ids=["max_tokens", "stop token"])
async def test_an_answer_of_one_token(trio: Trio, legs: Legs, more: dict[str, Any]) -> None:
    """It ends when the cache has come, because nobody uses that."""
    (prompt,) = trio.prompts("one token", [200])
    (first, *_) = await legs.expected(Request(prompt))
    request = Request(prompt, {name: [first] if value == "first" else value for name, value in more.items()})
    before, received = await legs.counted(), metrics(trio.consumer.url)["pd_kv_received_shares_total"]
    assert await legs.both(request) == [first]
    assert await legs.counted() - before == Counter({PRODUCER: 1})
    assert metrics(trio.consumer.url)["pd_kv_received_shares_total"] == received + 1


CHOICE = {"structured_outputs": {"choice": ["zebra", "yak"]}}


@pytest.mark.parametrize(
    ("more", "cause"),
    [
        ({"logprobs": 2}, causes.LOG_PROBABILITIES),
        ({"presence_penalty": 0.5}, causes.PENALTIES),
        ({"frequency_penalty": 0.5}, causes.PENALTIES),
        ({"repetition_penalty": 1.2}, causes.PENALTIES),
        ({"seed": 7, "temperature": 1}, causes.SEED),
        ({"bad_words": ["a", "b"]}, causes.BAD_WORDS),
        (CHOICE, ""),
        ({"logit_bias": {"65": 100}, "max_tokens": 3}, ""),
        ({"allowed_token_ids": [65, 66, 67]}, ""),
    ],
    ids=str,
)
async def test_parameters_of_both_legs(trio: Trio, legs: Legs, more: dict[str, Any], cause: str) -> None:
    (prompt,) = trio.prompts(f"parameters {more}", [100])  # a step: with a seed vLLM's CPU runner fails at two
    request, before = Request(prompt, more), await legs.counted()
    assert await legs.both(request) == await legs.expected(request)
    assert await legs.counted() - before == Counter({("consumer", cause) if cause else PRODUCER: 1})


@pytest.mark.parametrize("tokens", [1, 2])
async def test_a_stop_token_that_comes_too_early(trio: Trio, legs: Legs, tokens: int) -> None:
    """A producer that is asked for one token may sample a stop token. On a CPU the parameter is cause enough."""
    (prompt,) = trio.prompts("min_tokens", [150])
    (first, *_) = await legs.expected(Request(prompt))
    request = Request(prompt, {"stop_token_ids": [first]}, {"min_tokens": tokens})
    before = await legs.counted()
    assert await legs.both(request) == await legs.expected(request)
    assert await legs.counted() - before == Counter({("consumer", causes.MIN_TOKENS): 1})


async def test_a_token_that_the_grammar_refuses(trio: Trio, legs: Legs) -> None:
    """The producer knows of no grammar, and answers with a byte that is none of a choice."""
    (prompt,) = trio.prompts("grammar", [150])
    request, before = Request(prompt, {}, CHOICE), await legs.counted()
    assert await legs.both(request) == await legs.expected(request)
    assert await legs.counted() - before == Counter({("consumer", causes.NOT_IN_THE_GRAMMAR): 1})


async def test_answers_that_preempt_each_other(trio: Trio, legs: Legs) -> None:
    """Prompts that fit beside each other, and answers that do not."""
    requests = [Request(prompt, {}, {"max_tokens": 300}) for prompt in trio.prompts("preempted", [520] * 3)]
    before, preempted = await legs.counted(), metrics(trio.consumer.url)["vllm:num_preemptions_total"]
    assert await legs.all(requests) == [await legs.expected(request) for request in requests]
    assert metrics(trio.consumer.url)["vllm:num_preemptions_total"] > preempted
    assert (await legs.counted() - before)[PRODUCER] == len(requests)
