"""Queue, circuits and the TTFT objective through a running proxy: who waits and who is refused."""

import asyncio

import pytest

from tests.unit.proxy.conftest import PATIENCE_S, Stack, StartStack
from tests.unit.proxy.scripted import DONE, MODEL, Script, error, hangs, prefilled, replies, streams, token

pytestmark = pytest.mark.timeout(60)

WHOLE = {"model": MODEL, "prompt": "San Francisco is a"}
STREAM = WHOLE | {"stream": True}
ANSWER = replies(200, {"choices": [{"text": " city"}]})


async def status(stack: Stack) -> int:
    return await stack.proxy.status("/v1/completions", json=WHOLE)


async def becomes(stack: Stack, line: str, value: float) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while await stack.proxy.metric(line) != value:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_a_client_that_leaves_the_queue_leaves_its_place(start_stack: StartStack) -> None:
    release = asyncio.Event()
    bounds = {"proxy_max_running_requests": 1, "proxy_max_queued_requests": 2}
    stack = await start_stack([prefilled()], [hangs(release, ANSWER)], **bounds)
    first = asyncio.create_task(status(stack))
    await asyncio.wait_for(stack.consumers[0].arrived.wait(), PATIENCE_S)
    second, third = asyncio.create_task(status(stack)), asyncio.create_task(status(stack))
    await becomes(stack, "pd_proxy_queued_requests", 2)
    second.cancel()
    await becomes(stack, "pd_proxy_queued_requests", 1)
    assert len(stack.consumers[0].received) == 1
    release.set()
    assert (await first, await third) == (200, 200)
    assert await status(stack) == 200
    assert len(stack.consumers[0].received) == 3
    await becomes(stack, "pd_proxy_requests_in_flight", 0)


async def test_a_request_waits_for_its_first_token_no_longer_than_any_other(start_stack: StartStack) -> None:
    bounds = {"proxy_max_running_requests": 1, "proxy_first_token_timeout_s": 0.3}
    stack = await start_stack([prefilled()], [hangs()], **bounds)
    first = asyncio.create_task(status(stack))
    await asyncio.wait_for(stack.consumers[0].arrived.wait(), PATIENCE_S)
    assert await status(stack) == 504
    first.cancel()


CLOSED = 'pd_proxy_circuit_closed{instance="d0",role="decode"}'
CIRCUIT = {"proxy_breaker_failures": 1, "proxy_breaker_cooldown_s": 0.2}


async def test_a_client_that_leaves_a_stream_is_no_failure(start_stack: StartStack) -> None:
    stack = await start_stack([prefilled()], [streams(token(" city"), end=hangs())], **CIRCUIT)
    for _ in range(2):
        async with stack.proxy.post("/v1/completions", json=STREAM) as answer:
            await answer.content.readuntil(b"\n\n")
        await becomes(stack, "pd_proxy_requests_in_flight", 0)
    assert await stack.proxy.metric(CLOSED) == 1


async def test_a_rejection_is_no_failure(start_stack: StartStack) -> None:
    stack = await start_stack([prefilled()], [error(400, "too long")], **CIRCUIT)
    assert [await status(stack) for _ in range(3)] == [400] * 3


@pytest.mark.parametrize("aggregated", [[], [streams(token(" city"), DONE)]], ids=["pair", "aggregated"])
async def test_a_first_token_that_would_come_too_late_is_refused(
    aggregated: list[Script], start_stack: StartStack
) -> None:
    pair = ([], []) if aggregated else ([prefilled()], [streams(token(" city"), DONE)])
    stack = await start_stack(*pair, aggregated, proxy_ttft_slo_s=0.5)
    for _ in range(20):
        assert await stack.proxy.status("/v1/completions", json=STREAM) == 200
    long = STREAM | {"prompt": "San Francisco is a city. " * 40_000}
    for body in (long, long | {"stream": False}):
        async with stack.proxy.post("/v1/completions", json=body) as answer:
            assert (answer.status, (await answer.json())["error"]["code"]) == (429, "slo_unreachable")
            assert 1 <= int(answer.headers["Retry-After"]) <= 60
    for path in ("/v1/completions", "/tokenize"):
        assert await stack.proxy.status(path, json=STREAM) == 200


async def test_a_whole_answer_of_an_aggregated_instance_predicts_no_first_token(start_stack: StartStack) -> None:
    stack = await start_stack([], [], [ANSWER], proxy_ttft_slo_s=1e-9)
    assert [await status(stack) for _ in range(3)] == [200] * 3
