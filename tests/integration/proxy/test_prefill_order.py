"""A real producer that is busy takes the short prompt first, which came last."""

import asyncio

import aiohttp

from tests.real_stack import MODEL, RealStack

LONG, SHORT = 1500, 40  # tokens; three chunks, and the rest of one
PATIENCE_S = 120


async def requests_of_the_producer(session: aiohttp.ClientSession, stack: RealStack) -> int:
    async with session.get(stack.api_url + "/instances") as answer:
        instances = (await answer.json())["instances"]
    return sum(each["outstanding"] for each in instances if each["role"] == "prefill")


async def test_a_short_prompt_does_not_wait_for_long_ones(stack: RealStack) -> None:
    done: list[str] = []

    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=2 * PATIENCE_S)) as session:

        async def until_the_producer_has(many: int) -> None:
            """As the proxy counts: on a CPU the producer's own metrics do not answer while it computes."""
            async with asyncio.timeout(PATIENCE_S):
                while await requests_of_the_producer(session, stack) < many:  # noqa: ASYNC110
                    await asyncio.sleep(0.02)

        async def ask(name: str, first: int, tokens: int) -> None:
            body = {"model": MODEL, "prompt": stack.english[first:][:tokens], "max_tokens": 1, "stream": True}
            async with session.post(stack.api_url + "/v1/completions", json=body) as answer:
                assert answer.status == 200, await answer.text()
                assert answer.headers["X-PD-Path"] == "disaggregated"
                done.append(name)
                await answer.read()

        async with asyncio.TaskGroup() as group:
            group.create_task(ask("being computed", 60_000, LONG))
            await until_the_producer_has(1)
            group.create_task(ask("long", 62_000, LONG))
            await until_the_producer_has(2)
            group.create_task(ask("short", 64_000, SHORT))
    assert done.index("short") < done.index("long"), done
