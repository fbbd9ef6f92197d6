"""Every parameter through both legs gives what one plain vLLM server gives: text, usage, finish reason, error."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import pytest

from connector.first_token import causes
from tests.integration.proxy.answers import ask_both, differences, events, shapes
from tests.real_stack import (
    MAX_MODEL_LEN,
    MODEL,
    PATIENCE_S,
    PlainVllm,
    RealStack,
    first_tokens,
    metrics,
    post,
    wait_until,
)

# More than three blocks of 32 tokens, with a beginning that no other test has, so that caches start out equal.
STORY = (
    "The lighthouse keeper wrote every evening into a green book. He noted the wind, the height of the waves, the "
    "ships that had passed, and what he had for supper. On the fourth of March, when the fog had not lifted for nine "
    "days, he heard a bell where no bell could be. He put on his coat, lit the small lamp, and went down the ninety "
    "steps to"
)
OTHER = "A recipe for bread from the north: take two pounds of rye flour, a spoon of salt, and"
IDS = [504, 6092, 5646, 282, 260, 6220, 314, 1343, 281, 253, 1165, 4166, 335, 5411, 260, 9077]
SYSTEM = "You answer briefly, in plain words, as a librarian would who has been asked the same thing many times before."
QUESTION = "Which three cities by the sea would you name first, and why?"
CHAT = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": QUESTION}]
USER = [{"role": "user", "content": QUESTION}]
PARAMETERS = {"type": "object", "properties": {"city": {"type": "string", "maxLength": 12}}, "required": ["city"]}
FUNCTION = {"name": "weather", "description": "Tells the weather.", "parameters": PARAMETERS}
CHAT_TOOL = {"type": "function", "function": FUNCTION}
RESPONSES_TOOL = {"type": "function", **FUNCTION}
MESSAGES_TOOL = {"name": "weather", "description": "Tells the weather.", "input_schema": PARAMETERS}
SCHEMA = {
    "type": "object",
    "properties": {"n": {"type": "integer", "minimum": 1, "maximum": 9}},
    "required": ["n"],
    "additionalProperties": False,
}
PNG = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR4nGNgYGBgAAAABQABpfZFQAAAAABJRU5Erk"
    "Jggg=="
)
MINIMAL: dict[str, dict[str, Any]] = {
    "/v1/completions": {"prompt": STORY, "max_tokens": 6, "temperature": 0},
    "/v1/chat/completions": {"messages": CHAT, "max_tokens": 6, "temperature": 0},
    "/v1/responses": {"instructions": SYSTEM, "input": QUESTION, "max_output_tokens": 6, "temperature": 0},
    "/v1/messages": {"system": SYSTEM, "messages": USER, "max_tokens": 6, "temperature": 0},
}
COMPLETIONS, CHATS, RESPONSES, MESSAGES = MINIMAL
WITH_USAGE = {"include_usage": True}


@dataclass(frozen=True)
class Case:
    """`local`: the parameter for which the consumer gets the request alone. `error`: a part of vLLM's message.

    `consumers`: why the first token of both legs is the consumer's (on a CPU), empty where it is the producer's.
    """

    path: str
    given: dict[str, Any] = field(default_factory=dict)
    local: str | None = None
    error: str | None = None
    consumers: str = ""

    @property
    def body(self) -> dict[str, Any]:
        body = {"model": MODEL, **MINIMAL[self.path], **self.given}
        return {name: value for name, value in body.items() if value is not ...}

    def __str__(self) -> str:
        given = " ".join(f"{name}={value}" for name, value in self.given.items())
        return f"{self.path} {given}"[:90]


SERVED = [
    Case(COMPLETIONS),
    Case(COMPLETIONS, {"max_tokens": 1}),
    Case(COMPLETIONS, {"max_tokens": None}),
    Case(COMPLETIONS, {"max_tokens": ..., "stop": ["."]}),
    Case(COMPLETIONS, {"min_tokens": 6, "logit_bias": {"2": 100}}, consumers=causes.MIN_TOKENS),
    Case(COMPLETIONS, {"logit_bias": {"2": 100}}),
    Case(COMPLETIONS, {"ignore_eos": True, "logit_bias": {"2": 100}}),
    Case(COMPLETIONS, {"stop": [" the", "\n"], "max_tokens": 20}),
    Case(COMPLETIONS, {"stop": " the", "max_tokens": 20, "include_stop_str_in_output": True}),
    Case(COMPLETIONS, {"stop_token_ids": [28, 30], "max_tokens": 20}),
    Case(COMPLETIONS, {"temperature": 1, "seed": 7, "top_p": 0.9, "top_k": 20, "min_p": 0.01}, consumers=causes.SEED),
    Case(
        COMPLETIONS,
        {"frequency_penalty": 0.5, "presence_penalty": 0.5, "repetition_penalty": 1.2},
        consumers=causes.PENALTIES,
    ),
    Case(COMPLETIONS, {"logprobs": 2}, consumers=causes.LOG_PROBABILITIES),
    Case(COMPLETIONS, {"logprobs": 0, "return_tokens_as_token_ids": True}, consumers=causes.LOG_PROBABILITIES),
    Case(COMPLETIONS, {"logprobs": 1, "logprob_token_ids": [260, 253]}, consumers=causes.LOG_PROBABILITIES),
    Case(COMPLETIONS, {"return_token_ids": True}),
    Case(COMPLETIONS, {"echo": True}),
    Case(COMPLETIONS, {"n": 1, "best_of": 3}),
    Case(COMPLETIONS, {"prompt": [STORY]}),
    Case(COMPLETIONS, {"prompt": IDS}),
    Case(COMPLETIONS, {"prompt": [IDS], "add_special_tokens": False}),
    Case(COMPLETIONS, {"truncate_prompt_tokens": 40}),
    Case(COMPLETIONS, {"truncate_prompt_tokens": -1, "truncation_side": "left"}),
    Case(COMPLETIONS, {"priority": 5}),
    Case(COMPLETIONS, {"cache_salt": "pepper"}),
    Case(COMPLETIONS, {"allowed_token_ids": [260, 253, 28], "bad_words": ["the"]}, consumers=causes.BAD_WORDS),
    Case(COMPLETIONS, {"structured_outputs": {"regex": "[a-c]{3,5}"}}),
    Case(COMPLETIONS, {"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA}}}),
    Case(COMPLETIONS, {"user": "someone", "metadata": {"a": "b"}, "guided_regex": "ignored"}),
    Case(COMPLETIONS, {"n": 2, "temperature": 1, "seed": 3}, local="n"),
    # Both shorter than a block: a stream of several counts the cached tokens of the one that happens to begin first.
    Case(COMPLETIONS, {"prompt": [OTHER, QUESTION]}, local="prompt"),
    Case(COMPLETIONS, {"prompt": [IDS, IDS[:5]]}, local="prompt"),
    Case(COMPLETIONS, {"echo": True, "logprobs": 1, "prompt": OTHER}, local="echo"),
    Case(COMPLETIONS, {"echo": True, "logprobs": 1, "max_tokens": 0, "prompt": OTHER}, local="max_tokens"),
    Case(CHATS),
    Case(CHATS, {"max_tokens": ..., "max_completion_tokens": 5}),
    Case(CHATS, {"max_tokens": 900, "max_completion_tokens": 5}),
    Case(CHATS, {"min_tokens": 6, "ignore_eos": True, "stop": ["."]}, consumers=causes.MIN_TOKENS),
    Case(CHATS, {"temperature": 1, "seed": 11}, consumers=causes.SEED),
    Case(CHATS, {"logprobs": True, "top_logprobs": 2}, consumers=causes.LOG_PROBABILITIES),
    Case(CHATS, {"response_format": {"type": "json_object"}}),
    Case(CHATS, {"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA}}}),
    Case(CHATS, {"structured_outputs": {"choice": ["yes", "no"]}}),
    Case(CHATS, {"tools": [CHAT_TOOL]}),
    Case(CHATS, {"tools": [CHAT_TOOL], "tool_choice": "required", "max_tokens": 60}),
    Case(CHATS, {"tools": [CHAT_TOOL], "tool_choice": {"type": "function", "function": {"name": "weather"}}}),
    Case(CHATS, {"tools": [CHAT_TOOL], "tool_choice": "none", "parallel_tool_calls": False}),
    Case(CHATS, {"messages": [*CHAT, {"role": "assistant", "content": "First"}], "add_generation_prompt": False}),
    Case(CHATS, {"messages": [{"role": "user", "content": [{"type": "text", "text": QUESTION}]}]}),
    Case(CHATS, {"return_token_ids": True, "return_prompt_text": True}),
    Case(CHATS, {"n": 2, "temperature": 1, "seed": 5}, local="n"),
    Case(CHATS, {"messages": [*CHAT, {"role": "assistant", "content": "First"}], "echo": True}, local="echo"),
    Case(RESPONSES),
    Case(RESPONSES, {"instructions": ..., "input": CHAT, "store": False}),
    Case(
        RESPONSES, {"include": ["message.output_text.logprobs"], "top_logprobs": 2}, consumers=causes.LOG_PROBABILITIES
    ),
    Case(RESPONSES, {"text": {"format": {"type": "json_schema", "name": "n", "schema": SCHEMA}}}),
    Case(RESPONSES, {"tools": [RESPONSES_TOOL], "tool_choice": "required", "max_output_tokens": 60}),
    Case(RESPONSES, {"structured_outputs": {"choice": ["yes", "no"]}}),
    Case(RESPONSES, {"truncation": "auto", "metadata": {"usage": "x"}}),
    Case(MESSAGES),
    Case(MESSAGES, {"stop_sequences": [","], "max_tokens": 30, "metadata": {"user_id": "someone"}}),
    Case(MESSAGES, {"temperature": ..., "top_k": 1}),
    Case(MESSAGES, {"tools": [MESSAGES_TOOL]}),
    Case(MESSAGES, {"tools": [MESSAGES_TOOL], "tool_choice": {"type": "any"}}),
    Case(MESSAGES, {"tools": [MESSAGES_TOOL], "tool_choice": {"type": "tool", "name": "weather"}}, local="tool_choice"),
]
# vLLM gives no log probabilities of the prompt in streams, and no beam search.
WHOLE_ONLY = [
    Case(COMPLETIONS, {"prompt_logprobs": 1, "prompt": OTHER}, local="prompt_logprobs"),
    Case(CHATS, {"prompt_logprobs": 0}, local="prompt_logprobs"),
    Case(COMPLETIONS, {"use_beam_search": True}, local="use_beam_search"),
    Case(COMPLETIONS, {"use_beam_search": True, "n": 2}, local="n"),
]
REFUSED = [
    Case(COMPLETIONS, {"prompt": ...}, error="prompt or prompt_embeds must be provided"),
    Case(COMPLETIONS, {"prompt": ""}, error="prompt or prompt_embeds must be provided"),
    Case(COMPLETIONS, {"prompt": []}, error="at least one prompt"),
    Case(COMPLETIONS, {"prompt": [""]}, error="cannot be empty"),
    Case(COMPLETIONS, {"prompt": 5}, error="prompt"),
    Case(COMPLETIONS, {"prompt": [10**9]}, error="out of vocabulary"),
    Case(COMPLETIONS, {"prompt": [1] * (MAX_MODEL_LEN + 1)}, error="maximum context length"),
    Case(COMPLETIONS, {"prompt": "a b " * 4 * MAX_MODEL_LEN}, error="maximum context length"),
    Case(COMPLETIONS, {"max_tokens": MAX_MODEL_LEN + 1}, error="max_tokens"),
    Case(COMPLETIONS, {"max_tokens": 0}, error="max_tokens must be at least 1"),
    Case(COMPLETIONS, {"max_tokens": -1}, error="max_tokens must be at least 1"),
    Case(COMPLETIONS, {"max_tokens": "many"}, error="max_tokens"),
    Case(COMPLETIONS, {"min_tokens": 7}, error="min_tokens"),
    Case(COMPLETIONS, {"n": 0}, error="n must be at least 1"),
    Case(COMPLETIONS, {"n": 2}, error="greedy"),
    Case(COMPLETIONS, {"temperature": -1}, error="temperature"),
    Case(COMPLETIONS, {"top_p": 2}, error="top_p"),
    Case(COMPLETIONS, {"logprobs": -2}, error="logprobs"),
    Case(COMPLETIONS, {"logprobs": 10**6}, error="logprobs"),
    Case(COMPLETIONS, {"logit_bias": {"x": 1}}, error="logit_bias"),
    Case(COMPLETIONS, {"suffix": "end"}, error="suffix"),
    Case(COMPLETIONS, {"cache_salt": ""}, error="cache_salt"),
    Case(COMPLETIONS, {"prompt": ..., "prompt_embeds": "AAAA"}, error="prompt_embeds"),
    Case(COMPLETIONS, {"truncate_prompt_tokens": MAX_MODEL_LEN + 1}, error="truncate_prompt_tokens"),
    Case(COMPLETIONS, {"structured_outputs": {"regex": "("}}, error="regex"),
    Case(COMPLETIONS, {"response_format": {"type": "json_schema"}}, error="json_schema"),
    Case(CHATS, {"messages": ...}, error="messages"),
    Case(CHATS, {"messages": []}, error=""),
    Case(
        CHATS, {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": PNG}}]}]}, error=""
    ),
    Case(CHATS, {"top_logprobs": 2}, error="logprobs"),
    Case(CHATS, {"tools": []}, error="tools"),
    Case(CHATS, {"tool_choice": "required"}, error="tool"),
    Case(CHATS, {"chat_template": "{{ messages }}"}, error="chat template"),
    Case(RESPONSES, {"input": ...}, error="input"),
    Case(RESPONSES, {"background": True}, error="background"),
    Case(RESPONSES, {"previous_response_id": "resp_1"}, error="resp_1"),
    Case(RESPONSES, {"max_output_tokens": 0}, error="max_tokens"),
    Case(MESSAGES, {"max_tokens": ...}, error="max_tokens"),
    Case(MESSAGES, {"max_tokens": 0}, error="max_tokens"),
    Case(MESSAGES, {"messages": [{"role": "nobody", "content": "x"}]}, error="role"),
    Case(MESSAGES, {"thinking": {"type": "enabled", "budget_tokens": 2000}}, error="budget_tokens"),
]


@pytest.fixture(params=["whole", "streamed"])
def streamed(request: pytest.FixtureRequest) -> bool:
    return bool(request.param == "streamed")


FirstTokens = Counter[tuple[str, str]]


@pytest.fixture(scope="module")
def expected_first_tokens(stack: RealStack) -> Iterator[FirstTokens]:
    """By who should have computed them and why; in the end the consumer has counted the same."""

    def counted() -> FirstTokens:
        one = {"model": MODEL, "prompt": [1], "max_tokens": 1}
        post(stack.decode_url + COMPLETIONS, one)  # figures are those of a step
        return first_tokens(stack.decode_url)

    expected: FirstTokens = Counter()
    before = counted()
    yield expected
    wait_until(lambda: counted() - before == expected, PATIENCE_S, f"{expected}, but {counted() - before}")


async def compare(
    stack: RealStack, plain: PlainVllm, case: Case, expected_first_tokens: FirstTokens, **more: Any
) -> None:
    found, expected = await ask_both(stack.api_url, plain.url, case.path, case.body | more)
    assert expected.status == 200, expected.content
    assert found.status == 200, found.content
    assert differences(found.content, expected.content) == []
    if case.local is not None:
        assert (found.headers["X-PD-Path"], found.headers["X-PD-Reason"]) == ("local", case.local)
    else:
        assert found.headers["X-PD-Path"] == "disaggregated"
        by = "consumer" if case.consumers else "producer"
        assert found.first_token == by
        expected_first_tokens[by, case.consumers] += 1
        # A stop string in the producer's first token ends the answer before its cache has come.
        at_once = "stop" in case.given and found.first_token == "producer"
        assert found.moved > 0 or at_once, "no KV cache has moved"


@pytest.mark.parametrize("case", SERVED, ids=str)
async def test_served_as_by_one_server(
    stack: RealStack, plain: PlainVllm, case: Case, streamed: bool, expected_first_tokens: FirstTokens
) -> None:
    more: dict[str, Any] = {"stream": True} if streamed else {}
    if streamed and case.path in (COMPLETIONS, CHATS):
        more["stream_options"] = WITH_USAGE
    await compare(stack, plain, case, expected_first_tokens, **more)


@pytest.mark.parametrize("case", WHOLE_ONLY, ids=str)
async def test_served_whole_as_by_one_server(
    stack: RealStack, plain: PlainVllm, case: Case, expected_first_tokens: FirstTokens
) -> None:
    await compare(stack, plain, case, expected_first_tokens)


@pytest.mark.parametrize("path", MINIMAL)
async def test_the_events_of_a_stream(
    stack: RealStack, plain: PlainVllm, path: str, expected_first_tokens: FirstTokens
) -> None:
    """The first one, with the producer's token, is as any other: who says what, when an answer ends, and usage."""
    limit = "max_output_tokens" if path == RESPONSES else "max_tokens"
    more = {"stream_options": WITH_USAGE} if path in (COMPLETIONS, CHATS) else {}
    body = Case(path, {limit: 16, "stream": True, **more}).body
    found, expected = await ask_both(stack.api_url, plain.url, path, body)
    assert found.first_token == "producer"
    expected_first_tokens["producer", ""] += 1
    assert shapes(events(found.text)) == shapes(events(expected.text))


@pytest.mark.parametrize("path", [COMPLETIONS, CHATS])
async def test_usage_in_every_event(
    stack: RealStack, plain: PlainVllm, path: str, expected_first_tokens: FirstTokens
) -> None:
    more = {"stream": True, "stream_options": {"continuous_usage_stats": True, **WITH_USAGE}}
    await compare(stack, plain, Case(path), expected_first_tokens, **more)


@pytest.mark.parametrize("case", REFUSED, ids=str)
async def test_refused_as_by_one_server(stack: RealStack, plain: PlainVllm, case: Case, streamed: bool) -> None:
    found, expected = await ask_both(stack.api_url, plain.url, case.path, case.body | {"stream": streamed})
    status, message = expected.refusal
    assert 400 <= status < 500
    assert case.error is not None
    assert case.error in message
    assert found.status == status, "a refusal is never told in a stream that looks well"
    assert found.refusal == expected.refusal


async def test_the_parameter_is_counted_for_which_the_consumer_was_alone(stack: RealStack) -> None:
    body = Case(COMPLETIONS, {"n": 2, "temperature": 1}).body
    async with aiohttp.ClientSession() as session:
        async with session.post(stack.api_url + COMPLETIONS, json=body) as answer:
            assert answer.status == 200
        async with session.get(stack.api_url + "/metrics") as answer:
            assert 'pd_proxy_dispatched_total{path="local",reason="n"}' in await answer.text()


def test_no_block_is_left_in_use(stack: RealStack) -> None:
    """Also not for the requests of which a producer had accepted its leg, and the consumer refused its own."""
    for url in (stack.prefill_url, stack.decode_url):
        wait_until(lambda url=url: metrics(url)["vllm:kv_cache_usage_perc"] == 0, 2 * PATIENCE_S, f"{url} holds blocks")
