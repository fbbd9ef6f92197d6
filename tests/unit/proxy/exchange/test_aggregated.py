"""Instances that serve whole requests, behind a running proxy: what they get, and what is said of it."""

import asyncio

from tests.unit.proxy.conftest import StartStack, without_comment
from tests.unit.proxy.scripted import DONE, MODEL, breaks, error, prefilled, replies, streams, token

STREAM = {"model": MODEL, "prompt": "San Francisco is a", "stream": True}
WHOLE = {"model": MODEL, "prompt": "San Francisco is a"}


async def test_the_whole_request_goes_to_one_of_them(start_stack: StartStack) -> None:
    stack = await start_stack([], [], [streams(token(" city"), DONE)])
    async with stack.proxy.post("/v1/completions", json=STREAM) as answer:
        assert without_comment(await answer.read()) == token(" city") + DONE
    told = {name: answer.headers.get(f"X-PD-{name}") for name in ("Path", "Reason", "Consumer", "Producer")}
    assert told == {"Path": "local", "Reason": "aggregated", "Consumer": "a0", "Producer": None}
    assert {part.partition(";")[0] for part in answer.headers["Server-Timing"].split(", ")} == {"queue", "first_step"}
    (received,) = stack.aggregated[0].received
    assert received.body == STREAM
    assert "X-PD-Transfer-Id" not in received.headers
    assert await stack.proxy.metric('pd_proxy_dispatched_total{path="local",reason="aggregated"}') == 1
    assert await stack.proxy.metric('pd_proxy_instances{role="aggregated"}') == 1
    assert await stack.proxy.metric('pd_proxy_outstanding_tokens{instance="a0",role="aggregated"}') == 0


async def test_the_reason_is_theirs_whatever_the_parameters(start_stack: StartStack) -> None:
    stack = await start_stack([], [], [replies(200, {"choices": []})])
    async with stack.proxy.post("/v1/completions", json={**WHOLE, "n": 2}) as answer:
        assert (answer.status, answer.headers["X-PD-Reason"]) == (200, "aggregated")
    assert await stack.proxy.status("/tokenize", json=WHOLE) == 200


async def test_a_prompt_comes_back_to_where_its_prefix_is(start_stack: StartStack) -> None:
    stack = await start_stack([], [], [replies(200, {"choices": []})] * 2)
    for text in ("one ", "two ", "one ", "one ", "two "):
        assert await stack.proxy.status("/v1/completions", json={**WHOLE, "prompt": text * 1000}) == 200
    prompts = [[received.body["prompt"][:3] for received in each.received] for each in stack.aggregated]
    assert prompts == [["one"] * 3, ["two"] * 2]


async def test_a_prompt_is_in_hand_until_the_first_token(start_stack: StartStack) -> None:
    begin, end = asyncio.Event(), asyncio.Event()
    stack = await start_stack([], [], [streams(begin, token(" city"), end, DONE)])
    tokens = 'pd_proxy_outstanding_tokens{instance="a0",role="aggregated"}'
    body = {**STREAM, "prompt": [1] * 1000, "max_tokens": 50}
    asked = asyncio.create_task(stack.proxy.client.post(stack.proxy.url + "/v1/completions", json=body))
    await stack.aggregated[0].arrived.wait()
    assert await stack.proxy.metric(tokens) == 1050
    begin.set()
    async with await asked as answer:
        assert await stack.proxy.metric(tokens) == 50
        end.set()
        await answer.read()
    assert await stack.proxy.metric(tokens) == 0


async def test_another_one_takes_over_before_the_first_token(start_stack: StartStack) -> None:
    stack = await start_stack([], [], [breaks(), replies(200, {"choices": []})])
    assert await stack.proxy.status("/v1/completions", json=WHOLE) == 200
    assert await stack.proxy.metric('pd_proxy_retries_total{role="aggregated"}') == 1
    assert await stack.proxy.metric('pd_proxy_leg_failures_total{cause="broken_answer",role="aggregated"}') == 1


async def test_a_pair_that_fails_is_helped_out(start_stack: StartStack) -> None:
    stack = await start_stack([error(500, "broken")], [prefilled()], [replies(200, {"choices": []})])
    stack.consumers[0].script = breaks()
    async with stack.proxy.post("/v1/completions", json=WHOLE) as answer:
        assert (answer.status, answer.headers["X-PD-Reason"]) == (200, "aggregated")


async def test_a_stream_that_breaks_names_its_role(start_stack: StartStack) -> None:
    stack = await start_stack([], [], [streams(token(" city"), end=breaks())])
    async with stack.proxy.post("/v1/completions", json=STREAM) as answer:
        assert b"The aggregated instance a0 broke the connection off" in await answer.read()
    assert await stack.proxy.metric('pd_proxy_leg_failures_total{cause="broken_answer",role="aggregated"}') == 1


async def test_a_stream_that_ends_early_names_its_role(start_stack: StartStack) -> None:
    stack = await start_stack([], [], [streams(token(" city"))])
    async with stack.proxy.post("/v1/completions", json=STREAM) as answer:
        assert b"The aggregated instance a0 ended its stream early" in await answer.read()


async def test_readiness_over_a_socket(start_stack: StartStack) -> None:
    stack = await start_stack([], [], [prefilled()])
    async with stack.proxy.client.get(stack.proxy.url + "/ready") as answer:
        assert (answer.status, (await answer.json())["missing"]) == (200, [])
