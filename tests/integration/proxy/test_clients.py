"""The official OpenAI client, sync and async, streaming and not, on every API that it knows: as with one server."""

import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import openai
import pytest
from openai.types.chat import ChatCompletionMessageParam, ChatCompletionToolUnionParam
from openai.types.responses import FunctionToolParam

from tests.real_stack import MODEL, PlainVllm, RealStack

CHAT: list[ChatCompletionMessageParam] = [
    {"role": "system", "content": "You are a gardener, and you never use more than one sentence for an answer."},
    {"role": "user", "content": "When do I plant the potatoes?"},
]
SCHEMA: dict[str, object] = {
    "type": "object",
    "properties": {"month": {"type": "string", "enum": ["March", "April", "May"]}},
    "required": ["month"],
    "additionalProperties": False,
}
CHAT_TOOL: ChatCompletionToolUnionParam = {"type": "function", "function": {"name": "plant", "parameters": SCHEMA}}
RESPONSES_TOOL: FunctionToolParam = {"type": "function", "name": "plant", "parameters": SCHEMA, "strict": True}
GREEDY: dict[str, Any] = {"model": MODEL, "temperature": 0}


@pytest.fixture
def clients(stack: RealStack, plain: PlainVllm) -> Iterator[tuple[openai.OpenAI, openai.OpenAI]]:
    with (
        openai.OpenAI(base_url=stack.api_url + "/v1", api_key="any", max_retries=0) as ours,
        openai.OpenAI(base_url=plain.url + "/v1", api_key="any", max_retries=0) as direct,
    ):
        yield ours, direct


@pytest.fixture
async def asyncs(stack: RealStack, plain: PlainVllm) -> AsyncIterator[tuple[openai.AsyncOpenAI, openai.AsyncOpenAI]]:
    async with (
        openai.AsyncOpenAI(base_url=stack.api_url + "/v1", api_key="any", max_retries=0) as ours,
        openai.AsyncOpenAI(base_url=plain.url + "/v1", api_key="any", max_retries=0) as direct,
    ):
        yield ours, direct


def test_completions(clients: tuple[openai.OpenAI, openai.OpenAI]) -> None:
    ours, direct = (
        client.completions.create(prompt="In the garden", max_tokens=12, logprobs=1, **GREEDY) for client in clients
    )
    assert ours.choices[0].text == direct.choices[0].text
    assert ours.choices[0].finish_reason == direct.choices[0].finish_reason == "length"
    assert ours.choices[0].logprobs is not None
    assert direct.choices[0].logprobs is not None
    assert ours.choices[0].logprobs.tokens == direct.choices[0].logprobs.tokens
    assert ours.usage == direct.usage


def test_completions_stream(clients: tuple[openai.OpenAI, openai.OpenAI]) -> None:
    texts = []
    for client in clients:
        stream = client.completions.create(prompt="In the garden", max_tokens=12, stream=True, **GREEDY)
        texts.append("".join(chunk.choices[0].text for chunk in stream))
    assert texts[0] == texts[1] != ""


async def test_chat_stream_and_its_usage(asyncs: tuple[openai.AsyncOpenAI, openai.AsyncOpenAI]) -> None:
    answers = []
    for client in asyncs:
        stream = await client.chat.completions.create(
            messages=CHAT, max_completion_tokens=12, stream=True, stream_options={"include_usage": True}, **GREEDY
        )
        chunks = [chunk async for chunk in stream]
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
        answers.append((text, chunks[-2].choices[0].finish_reason, chunks[-1].usage))
    assert answers[0] == answers[1]
    assert answers[0][0]


async def test_chat_with_a_tool(asyncs: tuple[openai.AsyncOpenAI, openai.AsyncOpenAI]) -> None:
    """The call, its result handed back, and the answer to that."""
    conversations = []
    for client in asyncs:
        asked = await client.chat.completions.create(
            messages=CHAT, tools=[CHAT_TOOL], tool_choice="required", max_completion_tokens=60, **GREEDY
        )
        message = asked.choices[0].message
        assert asked.choices[0].finish_reason == "tool_calls"
        assert message.tool_calls
        (call,) = message.tool_calls
        assert call.type == "function"
        history: list[ChatCompletionMessageParam] = [
            *CHAT,
            {"role": "user", "content": f"The tool {call.function.name} says: {call.function.arguments}"},
        ]
        told = await client.chat.completions.create(messages=history, max_completion_tokens=12, **GREEDY)
        conversations.append((call.function.name, call.function.arguments, told.choices[0].message.content))
    assert conversations[0] == conversations[1]


def test_chat_with_a_schema(clients: tuple[openai.OpenAI, openai.OpenAI]) -> None:
    ours, direct = (
        client.chat.completions.create(
            messages=CHAT,
            max_completion_tokens=30,
            response_format={"type": "json_schema", "json_schema": {"name": "month", "schema": SCHEMA}},
            **GREEDY,
        )
        for client in clients
    )
    content = ours.choices[0].message.content
    assert content is not None
    assert content == direct.choices[0].message.content
    assert json.loads(content)["month"] in ("March", "April", "May")


async def test_responses(asyncs: tuple[openai.AsyncOpenAI, openai.AsyncOpenAI]) -> None:
    ours, direct = [
        await client.responses.create(input="When do I plant the potatoes?", max_output_tokens=12, **GREEDY)
        for client in asyncs
    ]
    assert ours.output_text == direct.output_text != ""
    assert ours.status == direct.status == "incomplete"
    assert ours.usage == direct.usage


def test_responses_stream(clients: tuple[openai.OpenAI, openai.OpenAI]) -> None:
    seen = []
    for client in clients:
        events = list(
            client.responses.create(input="When do I plant the potatoes?", max_output_tokens=12, stream=True, **GREEDY)
        )
        text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
        seen.append((text, events[0].type, events[-1].type, {event.type for event in events}))
    assert seen[0] == seen[1]
    assert seen[0][1:3] == ("response.created", "response.completed")


def test_responses_with_a_tool(clients: tuple[openai.OpenAI, openai.OpenAI]) -> None:
    calls = []
    for client in clients:
        answer = client.responses.create(
            input="When do I plant the potatoes?",
            tools=[RESPONSES_TOOL],
            tool_choice="required",
            max_output_tokens=60,
            **GREEDY,
        )
        calls.append([(item.name, item.arguments) for item in answer.output if item.type == "function_call"])
    assert calls[0] == calls[1] != []


@pytest.mark.parametrize(
    ("error", "given"),
    [
        (openai.NotFoundError, {"model": "no-such-model"}),
        (openai.BadRequestError, {"temperature": -1}),
        (openai.BadRequestError, {"logprobs": "many"}),
    ],
)
def test_errors_have_the_same_class_and_message(
    clients: tuple[openai.OpenAI, openai.OpenAI], error: type[openai.APIStatusError], given: dict[str, Any]
) -> None:
    messages = []
    for client in clients:
        with pytest.raises(error) as refused:
            client.completions.create(**(GREEDY | {"prompt": "In the garden"} | given))
        assert isinstance(refused.value.body, dict)
        messages.append(refused.value.body["message"])
    # vLLM goes on with the names that it serves.
    assert messages[0] == messages[1].split(" Valid aliases")[0]


def test_models(clients: tuple[openai.OpenAI, openai.OpenAI]) -> None:
    ours, direct = ([(model.id, model.object) for model in client.models.list()] for client in clients)
    assert ours == direct
    assert clients[0].models.retrieve(MODEL).id == MODEL
