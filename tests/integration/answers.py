"""Greedy answers to prompts given as token ids, from the stack and from a plain server, and their comparison."""

import asyncio
from collections.abc import Sequence
from pydoc_data.topics import topics
from typing import Any

import aiohttp

from tests.real_stack import MODEL, PlainVllm, RealStack

ANSWER_TOKENS = 16
TIMEOUT = aiohttp.ClientTimeout(total=300)

Tokens = list[int]


async def english(plain: PlainVllm) -> Tokens:
    """Tokens of a long English text that comes with Python: its language reference."""
    text = "\n".join(topics[name] for name in sorted(topics))[:400_000]
    async with aiohttp.ClientSession(timeout=TIMEOUT) as session:
        answer = await _post(session, plain.url + "/tokenize", {"model": MODEL, "prompt": text})
    return list(answer["tokens"])


async def greedy(url: str, prompts: Sequence[Tokens], at_once: int, **more: Any) -> list[Tokens]:
    """The answer's token ids for each prompt, `at_once` requests at a time."""
    limit = asyncio.Semaphore(at_once)
    async with aiohttp.ClientSession(timeout=TIMEOUT) as session:

        async def one(prompt: Tokens) -> Tokens:
            body = {
                "model": MODEL,
                "prompt": prompt,
                "temperature": 0,
                "max_tokens": ANSWER_TOKENS,
                "ignore_eos": True,
                "return_token_ids": True,
                **more,
            }
            async with limit:
                answer = await _post(session, url + "/v1/completions", body)
            return list(answer["choices"][0]["token_ids"])

        return list(await asyncio.gather(*map(one, prompts)))


async def assert_same_answers(stack: RealStack, plain: PlainVllm, prompts: Sequence[Tokens], at_once: int) -> None:
    """Every greedy answer through the stack equals the plain server's, token by token."""
    expected = await greedy(plain.url, prompts, at_once)
    found = await greedy(stack.api_url, prompts, at_once)
    different = {
        f"prompt of {len(prompt)} tokens": {"plain": wanted, "stack": got}
        for prompt, wanted, got in zip(prompts, expected, found, strict=True)
        if wanted != got
    }
    assert not different, different
    repeated = [len(prompt) for prompt, answer in zip(prompts, expected, strict=True) if len(set(answer)) == 1]
    assert not repeated, f"answers that repeat one token would hide errors: prompts of {repeated} tokens"


async def _post(session: aiohttp.ClientSession, url: str, body: dict[str, Any]) -> dict[str, Any]:
    async with session.post(url, json=body) as response:
        answer = await response.json()
        assert response.status == 200, (response.status, answer)
        assert isinstance(answer, dict)
        return answer
