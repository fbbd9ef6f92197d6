"""Which prompt a producer takes first, and who computes a short one, as instances see it and as clients are told."""

import asyncio
from contextlib import AsyncExitStack
from typing import Any

import pytest

from tests.unit.proxy.conftest import StartStack, eventually
from tests.unit.proxy.scripted import DONE, MODEL, Script, hangs, prefilled, replies, streams, token

NUMBER = "X-Vllm-Priority"
WHOLE = {"id": "cmpl-1", "object": "text_completion", "choices": [{"index": 0, "text": " city"}]}


def body(tokens: int, **more: Any) -> dict[str, Any]:
    return {"model": MODEL, "prompt": list(range(tokens)), **more}


@pytest.mark.parametrize(("order", "first"), [("shortest", "short"), ("arrival", "long"), (None, "short")])
async def test_the_number_that_a_producer_goes_by(order: str | None, first: str, start_stack: StartStack) -> None:
    settings = {} if order is None else {"proxy_prefill_order": order}
    compute = asyncio.Event()
    stack = await start_stack([hangs(compute, prefilled())], [replies(200, WHOLE)], **settings)
    [producer], [consumer] = stack.producers, stack.consumers
    sent = {"long": body(3000, priority=-5), "short": body(30, priority=9)}
    async with asyncio.TaskGroup() as group:
        for number, asked in enumerate(sent.values(), 1):
            group.create_task(stack.proxy.status("/v1/completions", json=asked, headers={NUMBER: "-77"}))
            await eventually(lambda number=number: len(producer.received) == number)  # type: ignore[misc]
        compute.set()
    numbers = {name: int(leg.headers[NUMBER]) for name, leg in zip(sent, producer.received, strict=True)}
    assert min(numbers, key=lambda name: numbers[name]) == first
    assert all(number > 0 for number in numbers.values()), "a client's own number counts neither as header nor as field"
    for leg, asked in zip(consumer.received, sent.values(), strict=True):
        assert NUMBER not in leg.headers
        assert {name: value for name, value in leg.body.items() if name != "kv_transfer_params"} == asked


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/responses", "/v1/messages"])
async def test_every_api_has_the_number(path: str, start_stack: StartStack) -> None:
    stack = await start_stack([prefilled()], [replies(200, WHOLE)])
    asked = {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}], "input": "Hi", "max_tokens": 5}
    await stack.proxy.status(path, json=asked)
    assert int(stack.producers[0].received[0].headers[NUMBER]) > 0
    assert NUMBER not in stack.consumers[0].received[0].headers


async def test_who_has_left_is_not_waited_for(start_stack: StartStack) -> None:
    stack = await start_stack([hangs()], [hangs()])
    [producer] = stack.producers
    order = stack.proxy.gateway.fleet.order(producer.record)
    task = asyncio.create_task(stack.proxy.status("/v1/completions", json=body(3000)))
    await producer.arrived.wait()
    assert order.ahead(10) == 3000
    task.cancel()
    await eventually(lambda: order.ahead(10) == 0)


@pytest.mark.parametrize(
    ("producer", "consumer", "leaves", "said"),
    [
        pytest.param(prefilled(), replies(200, WHOLE), False, "leave", id="computed"),
        pytest.param(hangs(), hangs(), True, "withdraw", id="the client leaves"),
        pytest.param(replies(500, {"error": {"message": "no"}}), hangs(), False, "withdraw", id="the producer fails"),
        # Its first token is out: the producer has computed the prompt, and has yet to say so.
        pytest.param(hangs(), streams(token(" city"), end=hangs()), True, "leave", id="the client leaves its stream"),
    ],
)
async def test_whether_the_place_of_a_prompt_is_given_back(
    producer: Script,
    consumer: Script,
    leaves: bool,
    said: str,
    start_stack: StartStack,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stack = await start_stack([producer], [consumer])
    order = stack.proxy.gateway.fleet.order(stack.producers[0].record)
    found: list[str] = []
    for name in ("leave", "withdraw"):
        monkeypatch.setattr(order, name, lambda place, name=name: found.append(name))

    async def ask() -> None:
        async with stack.proxy.post("/v1/completions", json=body(300, stream=True)) as answer:
            began.set()
            await answer.read()

    began = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        task = group.create_task(ask())
        await stack.producers[0].arrived.wait()
        if leaves:
            await (began.wait() if said == "leave" else stack.consumers[0].arrived.wait())
            task.cancel()
    await eventually(lambda: bool(found))
    assert found == [said]


async def test_a_consumer_without_streams_takes_a_short_prompt_a_busy_one_does_not(start_stack: StartStack) -> None:
    end = asyncio.Event()
    stack = await start_stack([prefilled()], [streams(token(" city"), end, DONE)], proxy_local_prompt_tokens=96)
    asked = body(60, stream=True)
    async with AsyncExitStack() as exits:
        for path, reason in (
            ("local", "short_prompt"),  # and streams itself from now on
            ("local", "short_prompt"),
            ("disaggregated", "consumer_busy"),
        ):
            answer = await exits.enter_async_context(stack.proxy.post("/v1/completions", json=asked))
            assert (answer.headers["X-PD-Path"], answer.headers["X-PD-Reason"]) == (path, reason)
        line = 'pd_proxy_dispatched_total{path="disaggregated",reason="consumer_busy"}'
        assert await stack.proxy.metric(line) == 1
        end.set()
    await eventually(lambda: stack.proxy.gateway.fleet.outstanding("d0") == 0)
    async with stack.proxy.post("/v1/completions", json=asked) as answer:
        assert answer.headers["X-PD-Reason"] == "short_prompt"


async def test_a_busy_consumer_takes_it_when_the_producer_has_a_long_queue(start_stack: StartStack) -> None:
    end, compute = asyncio.Event(), asyncio.Event()
    stack = await start_stack(
        [hangs(compute, prefilled())], [streams(token(" city"), end, DONE)], proxy_local_prompt_tokens=96
    )
    async with AsyncExitStack() as exits:
        for reason in ("short_prompt", "short_prompt"):
            answer = await exits.enter_async_context(stack.proxy.post("/v1/completions", json=body(60, stream=True)))
            assert answer.headers["X-PD-Reason"] == reason
            await answer.content.readany()
        long = await exits.enter_async_context(stack.proxy.post("/v1/completions", json=body(3000, stream=True)))
        await long.content.readany()  # its cache is still to come, so it counts for the queue and not as a stream
        assert stack.proxy.gateway.fleet.outstanding("p0") == 1
        answer = await exits.enter_async_context(stack.proxy.post("/v1/completions", json=body(60, stream=True)))
        assert (answer.headers["X-PD-Path"], answer.headers["X-PD-Reason"]) == ("local", "producer_busy")
        line = 'pd_proxy_dispatched_total{path="local",reason="producer_busy"}'
        assert await stack.proxy.metric(line) == 1
        compute.set()
        end.set()
    fleet = stack.proxy.gateway.fleet
    await eventually(lambda: fleet.outstanding("d0") == 0 and fleet.outstanding("p0") == 0)
    async with stack.proxy.post("/v1/completions", json=body(60, stream=True)) as answer:
        assert answer.headers["X-PD-Reason"] == "short_prompt"
