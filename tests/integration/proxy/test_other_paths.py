"""Paths that one instance answers, and those that the proxy does not have."""

from typing import Any

import aiohttp
import pytest

from tests.integration.proxy.answers import ask_both
from tests.real_stack import MODEL, PlainVllm, RealStack

MESSAGES = [{"role": "user", "content": "What does the harbour cost?"}]


@pytest.mark.parametrize(
    ("path", "given"),
    [
        ("/tokenize", {"prompt": "The harbour"}),
        ("/tokenize", {"prompt": "The harbour", "add_special_tokens": False, "return_token_strs": True}),
        ("/tokenize", {"messages": MESSAGES}),
        ("/tokenize", {"prompt": 5}),
        ("/detokenize", {"tokens": [504, 6092, 5646]}),
        ("/detokenize", {"tokens": [10**7]}),
        ("/v1/messages/count_tokens", {"messages": MESSAGES, "system": "Be brief."}),
        ("/v1/messages/count_tokens", {"messages": 5}),
    ],
)
async def test_answered_as_by_one_server(stack: RealStack, plain: PlainVllm, path: str, given: dict[str, Any]) -> None:
    found, expected = await ask_both(stack.api_url, plain.url, path, {"model": MODEL, **given})
    assert found.status == expected.status
    if expected.status == 200:
        assert found.content == expected.content
    else:
        assert found.refusal == expected.refusal


@pytest.mark.parametrize("path", ["/v1/embeddings", "/v1/completions/render", "/v1/responses/resp_1", "/pause", "/v2"])
async def test_everything_else_is_not_found(stack: RealStack, path: str) -> None:
    async with aiohttp.ClientSession() as session, session.post(stack.api_url + path, json={"model": MODEL}) as answer:
        content = await answer.json()
    assert answer.status == 404
    assert content["error"].keys() == {"message", "type", "param", "code"}
    assert path in content["error"]["message"]
