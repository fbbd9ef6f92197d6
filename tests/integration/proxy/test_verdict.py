"""Bodies for which vLLM answers 500, through the proxy: their sender hears it, and nobody else is hurt."""

import asyncio
from typing import Any

import aiohttp
import pytest

from tests.integration.proxy.answers import ask_both
from tests.real_stack import MODEL, PlainVllm, RealStack

TIMES = 10
LONG = " ".join(map(str, range(300)))
# vllm-project/vllm#44138: as tools look in /v1/responses
FLAT_TOOL = {
    "tools": [{"type": "function", "name": "weather", "parameters": {"type": "object", "properties": {}}}],
    "tool_choice": {"type": "function", "function": {"name": "weather"}},
}


def chat(text: str, **more: Any) -> tuple[str, dict[str, Any]]:
    messages = [{"role": "user", "content": text}]
    return "/v1/chat/completions", {"model": MODEL, "messages": messages, "max_tokens": 4, **more}


def completion(text: str, **more: Any) -> tuple[str, dict[str, Any]]:
    return "/v1/completions", {"model": MODEL, "prompt": text, "max_tokens": 4, **more}


POISON = {
    "flat tool": chat("hi", **FLAT_TOOL),
    "flat tool, stream": chat("hi", stream=True, **FLAT_TOOL),
    "flat tool, long": chat(LONG, **FLAT_TOOL),
    "list, chat": chat("hi", structured_outputs=[]),
    "string, chat": chat("hi", structured_outputs="json"),
    "list": completion("San", structured_outputs=[]),
    "string, long": completion(LONG, structured_outputs="json"),
}


@pytest.mark.parametrize("case", POISON)
async def test_poison_gets_vllms_own_words_and_leaves_the_instances_in_use(
    stack: RealStack, plain: PlainVllm, case: str
) -> None:
    path, body = POISON[case]
    found, expected = await ask_both(stack.api_url, plain.url, path, body)
    assert expected.status >= 500, "vLLM has learned to refuse this: take another body"
    assert found.refusal == expected.refusal

    async with aiohttp.ClientSession(stack.api_url) as session:

        async def status(path: str, body: dict[str, Any]) -> int:
            async with session.post(path, json=body) as answer:
                await answer.read()
                return answer.status

        statuses = await asyncio.gather(*(status(path, body | {"user": f"{number}"}) for number in range(TIMES)))
        assert set(statuses) == {expected.status}
        good_path, good = completion("San")
        assert await status(good_path, good) == 200
        async with session.get("/metrics") as answer:
            circuits = [line for line in (await answer.text()).splitlines() if line.startswith("pd_proxy_circuit")]
    assert [line.rpartition(" ")[2] for line in circuits] == ["1.0", "1.0"], circuits
