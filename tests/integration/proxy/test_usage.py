"""Cached tokens of a conversation: what one server counts that keeps its prompts and its own answers."""

from typing import Any

import pytest

from tests.integration.proxy.answers import Reply, ask_both
from tests.real_stack import BLOCK_TOKENS, MODEL, PlainVllm, RealStack

SYSTEM = (
    "You are the night porter of a very small hotel by the sea, polite and tired, and you tell guests what they ask."
)
QUESTION = "What is there to see in the harbour, and how do I get to the station in the morning?"


def counted(reply: Reply) -> int:
    """Cached tokens of a whole answer or of a stream."""
    parts = reply.content if isinstance(reply.content, list) else [reply.content]
    (usage,) = [part["usage"] for part in parts if isinstance(part, dict) and part.get("usage")]
    return int(usage["prompt_tokens_details"]["cached_tokens"])


@pytest.mark.parametrize("stream", [False, True])
async def test_a_conversation(stack: RealStack, plain: PlainVllm, stream: bool) -> None:
    """The second turn repeats the first answer, which the producer has never seen and the consumer has computed."""
    first: dict[str, Any] = {
        "model": MODEL,
        "messages": [{"role": "system", "content": f"{SYSTEM} {stream}"}, {"role": "user", "content": QUESTION}],
        "temperature": 0,
        "max_tokens": 3 * BLOCK_TOKENS,
        "ignore_eos": True,
    }
    found, expected = await ask_both(stack.api_url, plain.url, "/v1/chat/completions", first)
    assert (counted(found), counted(expected)) == (0, 0)
    answer = expected.content["choices"][0]["message"]
    assert found.content["choices"][0]["message"]["content"] == answer["content"]

    said = {"role": "assistant", "content": answer["content"]}
    turn = {"messages": [*first["messages"], said, {"role": "user", "content": "Thank you."}], "max_tokens": 4}
    streamed = {"stream": True, "stream_options": {"include_usage": True}} if stream else {}
    prompt_tokens = expected.content["usage"]["prompt_tokens"]
    for repetition in range(2):
        found, expected = await ask_both(stack.api_url, plain.url, "/v1/chat/completions", first | turn | streamed)
        assert counted(found) == counted(expected), f"repetition {repetition}"
        assert counted(found) > prompt_tokens, "the first answer is not in the prompt as it was generated"
        assert found.headers["X-PD-Path"] == "disaggregated"
