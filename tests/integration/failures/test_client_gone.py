"""The proxy's client goes away: neither leg works on for nobody, and no block stays held for it."""

import asyncio
from collections import Counter
from contextlib import suppress

import openai

from tests.integration.failures.conftest import Prompts
from tests.integration.failures.failure_stack import FailureStack
from tests.integration.failures.legs import until
from tests.real_stack import MODEL


def idle(stack: FailureStack) -> bool:
    return all(server.metric("vllm:num_requests_running") == 0 for server in stack.servers)


async def test_during_the_prefill(stack: FailureStack, prompts: Prompts) -> None:
    failed = stack.producer.failures()
    (prompt,) = prompts(1200)
    sent = stack.producer.metric("pd_kv_sent_bytes_total")
    async with openai.AsyncOpenAI(base_url=stack.api_url + "/v1", api_key="any", max_retries=0) as client:
        request = asyncio.create_task(client.completions.create(model=MODEL, prompt=prompt, max_tokens=50))
        await until(lambda: stack.producer.metric("pd_kv_sent_bytes_total") > sent, "the first chunk has left")
        request.cancel()
        with suppress(asyncio.CancelledError):
            await request
    await until(lambda: idle(stack), "both legs have ended")
    either = [failed + Counter({cause: 1}) for cause in ("aborted", "cancelled")]
    await until(lambda: stack.producer.failures() in either, "the leg that ended first is the cause")


async def test_during_the_answer(stack: FailureStack, prompts: Prompts) -> None:
    failed = stack.producer.failures()
    (prompt,) = prompts(100)
    async with openai.AsyncOpenAI(base_url=stack.api_url + "/v1", api_key="any", max_retries=0) as client:
        stream = await client.completions.create(
            model=MODEL, prompt=prompt, max_tokens=3000, stream=True, extra_body={"ignore_eos": True}
        )
        events = aiter(stream)  # which ends the stream once nobody holds it
        await anext(events)
        await until(lambda: not idle(stack), "the consumer answers")  # its first token may come before it has begun
        await stream.close()
    await until(lambda: idle(stack), "the consumer has stopped")
    assert stack.producer.failures() == failed
