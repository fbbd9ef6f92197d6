"""What a client gets when everything works, over a real socket."""

import asyncio
import gc
import json
from functools import partial
from typing import Any

import openai
import pytest

from proxy.exchange.exchange import Exchange
from tests.unit.proxy.conftest import PATIENCE_S, StartStack, eventually, without_comment
from tests.unit.proxy.scripted import DONE, MODEL, breaks, data, hangs, prefilled, replies, streams, token

COMPLETION = {
    "id": "cmpl-1",
    "object": "text_completion",
    "created": 1,
    "model": MODEL,
    "choices": [{"index": 0, "text": " city of the sea", "logprobs": None, "finish_reason": "length"}],
    "usage": {"prompt_tokens": 4, "completion_tokens": 4, "total_tokens": 8},
}


async def test_both_legs_get_their_part_of_one_transfer(start_stack: StartStack) -> None:
    stack = await start_stack([prefilled()], [replies(200, COMPLETION)])
    raw = b'{\n  "model": "%s",\n  "prompt": "San Francisco is a",\n  "max_tokens": 1000, "temperature": 1e-1\n}\n'
    raw %= MODEL.encode()

    async with stack.proxy.post("/v1/completions", data=raw, headers={"Content-Type": "application/json"}) as answer:
        assert answer.status == 200
        assert await answer.json() == COMPLETION
        transfer_id = answer.headers["X-PD-Transfer-Id"]
        assert (answer.headers["X-PD-Producer"], answer.headers["X-PD-Consumer"]) == ("p0", "d0")

    [prefill], [decode] = stack.producers[0].received, stack.consumers[0].received
    assert (prefill.path, decode.path) == ("/v1/completions", "/v1/completions")
    assert decode.raw.startswith(raw.rstrip()[:-1])  # the client's own bytes
    assert decode.body["kv_transfer_params"] == {
        "do_remote_prefill": True,
        "transfer_id": transfer_id,
        "producer": {"control": "tcp://p0:1"},
        "timeline": True,
    }
    assert prefill.body == {
        "model": MODEL,
        "prompt": "San Francisco is a",
        "max_tokens": 1,
        "temperature": 0.1,
        "stream": False,
        "kv_transfer_params": {"do_remote_decode": True, "transfer_id": transfer_id},
    }


async def test_a_stream_passes_byte_by_byte(start_stack: StartStack) -> None:
    events = [token(" city"), token(" of"), data({"choices": [], "usage": {"total_tokens": 6}}), DONE]
    stack = await start_stack([prefilled()], [streams(*events)])
    body = {"model": MODEL, "prompt": "San Francisco is a", "stream": True}

    async with stack.proxy.post("/v1/completions", json=body) as answer:
        assert answer.status == 200
        assert answer.headers["Content-Type"] == "text/event-stream; charset=utf-8"
        assert answer.headers["X-PD-Consumer"] == "d0"
        assert without_comment(await answer.read()) == b"".join(events)

    ttft = 'pd_proxy_time_to_first_token_seconds_count{endpoint="/v1/completions",path="disaggregated"}'
    assert await stack.proxy.metric(ttft) == 1
    line = 'pd_proxy_requests_total{client="",endpoint="/v1/completions",outcome="ok",status="200"}'
    assert await stack.proxy.metric(line) == 1


async def test_both_legs_are_dispatched_at_once(start_stack: StartStack) -> None:
    """Each leg answers only after the other has arrived."""
    prefill_arrived, decode_arrived = asyncio.Event(), asyncio.Event()
    stack = await start_stack([hangs(decode_arrived, prefilled())], [hangs(prefill_arrived, replies(200, COMPLETION))])
    prefill, decode = stack.producers[0], stack.consumers[0]
    prefill.arrived, decode.arrived = prefill_arrived, decode_arrived

    async with stack.proxy.post("/v1/completions", json={"model": MODEL, "prompt": "x"}) as answer:
        assert answer.status == 200


async def test_nothing_is_sent_before_the_consumers_first_event(start_stack: StartStack) -> None:
    """vLLM sends status 200 and SSE comments long before the first token."""
    more = asyncio.Event()
    stack = await start_stack([prefilled()], [streams(b": ping\n\n", more)])
    body = {"model": MODEL, "prompt": "x", "stream": True}

    request = asyncio.create_task(stack.proxy.status("/v1/completions", json=body))
    await asyncio.wait_for(stack.consumers[0].arrived.wait(), PATIENCE_S)
    await eventually(lambda: stack.proxy.gateway.fleet.outstanding("p0") == 0)
    assert not request.done()
    more.set()  # the consumer now ends without a single event
    assert await request == 502


async def test_an_answer_does_not_wait_for_the_producers(start_stack: StartStack) -> None:
    release = asyncio.Event()
    stack = await start_stack([hangs(release, prefilled())], [replies(200, COMPLETION)])

    async with stack.proxy.post("/v1/completions", json={"model": MODEL, "prompt": "x"}) as answer:
        assert await answer.json() == COMPLETION

    assert stack.proxy.gateway.fleet.outstanding("p0") == 1
    assert not stack.producers[0].cancelled.is_set()
    release.set()
    await eventually(lambda: stack.proxy.gateway.fleet.outstanding("p0") == 0)
    assert not stack.producers[0].cancelled.is_set()


async def test_request_ids_are_taken_or_made(start_stack: StartStack) -> None:
    stack = await start_stack([prefilled()], [replies(200, COMPLETION)])
    body = {"model": MODEL, "prompt": "x"}
    async with stack.proxy.post("/v1/completions", json=body, headers={"X-Request-Id": "mine-1"}) as answer:
        assert answer.headers["X-Request-Id"] == "mine-1"
    async with stack.proxy.post("/v1/completions", json=body, headers={"X-Request-Id": "x" * 500}) as answer:
        made = answer.headers["X-Request-Id"]
        assert len(made) == 32

    for server in (stack.producers[0], stack.consumers[0]):
        assert [received.headers["X-Request-Id"] for received in server.received] == ["mine-1", made]


async def test_the_instances_get_the_stacks_key_and_never_the_clients(start_stack: StartStack) -> None:
    stack = await start_stack([prefilled()], [replies(200, COMPLETION)], openai_api_key="stack-key")
    body = {"model": MODEL, "prompt": "x"}
    async with stack.proxy.post("/v1/completions", json=body, headers={"Authorization": "Bearer client"}) as answer:
        assert answer.status == 200
    for server in (stack.producers[0], stack.consumers[0]):
        assert server.received[0].headers["Authorization"] == "Bearer stack-key"


async def test_without_a_key_no_authorization_is_sent(start_stack: StartStack) -> None:
    stack = await start_stack([prefilled()], [replies(200, COMPLETION)])
    body = {"model": MODEL, "prompt": "x"}
    async with stack.proxy.post("/v1/completions", json=body, headers={"Authorization": "Bearer client"}) as answer:
        assert answer.status == 200
    for server in (stack.producers[0], stack.consumers[0]):
        assert "Authorization" not in server.received[0].headers


async def test_requests_spread_over_the_least_loaded(start_stack: StartStack) -> None:
    stack = await start_stack([prefilled()] * 2, [replies(200, COMPLETION)] * 2)
    for _ in range(4):
        async with stack.proxy.post("/v1/completions", json={"model": MODEL, "prompt": "x"}) as answer:
            assert answer.status == 200
    assert [len(server.received) for server in stack.producers + stack.consumers] == [2, 2, 2, 2]


async def test_the_official_client_works(start_stack: StartStack) -> None:
    chunks = [
        {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": MODEL, "choices": [choice]}
        for choice in (
            {"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None},
            {"index": 0, "delta": {"content": "Paris"}, "finish_reason": None},
            {"index": 0, "delta": {}, "finish_reason": "stop"},
        )
    ]
    stack = await start_stack([prefilled()], [streams(*map(data, chunks), DONE)])
    async with openai.AsyncOpenAI(
        base_url=stack.proxy.url + "/v1", api_key="client", timeout=PATIENCE_S, max_retries=0
    ) as client:
        models = [model.id async for model in client.models.list()]
        assert models == [MODEL]
        stream = await client.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": "Capital of France?"}], stream=True
        )
        text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
        assert text == "Paris"

        stack.consumers[0].script = replies(200, COMPLETION)
        completion = await client.completions.create(model=MODEL, prompt="San Francisco is a", max_tokens=4)
        assert completion.choices[0].text == " city of the sea"

        too_long = {"error": {"message": "too long", "type": "BadRequestError", "param": "prompt", "code": 400}}
        stack.consumers[0].script = replies(400, too_long)
        with pytest.raises(openai.BadRequestError) as refusal:
            await client.completions.create(model=MODEL, prompt="x")
        assert refusal.value.body == too_long["error"]
    assert json.loads(stack.producers[0].received[0].raw)["messages"] == [
        {"role": "user", "content": "Capital of France?"}
    ]


@pytest.mark.parametrize("api", ["completions", "chat", "responses"])
async def test_the_official_client_raises_when_a_stream_breaks_off(api: str, start_stack: StartStack) -> None:
    added = b"event: response.output_item.added\n" + data({"type": "response.output_item.added"})
    first = added if api == "responses" else token("Paris")
    stack = await start_stack([prefilled()], [streams(first, end=breaks())])
    async with openai.AsyncOpenAI(
        base_url=stack.proxy.url + "/v1", api_key="client", timeout=PATIENCE_S, max_retries=0
    ) as client:
        create: Any = {
            "completions": partial(client.completions.create, prompt="x"),
            "chat": partial(client.chat.completions.create, messages=[]),
            "responses": partial(client.responses.create, input="x"),
        }[api]
        events = aiter(await create(model=MODEL, stream=True))
        await anext(events)
        with pytest.raises(openai.APIError, match="The decode instance d0 broke the connection off"):
            await anext(events)


@pytest.mark.parametrize("wanted", [{}, {"stream": True}], ids=["whole", "stream"])
async def test_a_request_that_is_over_leaves_nothing_to_the_garbage_collector(
    start_stack: StartStack, wanted: dict[str, bool]
) -> None:
    """Else its bodies stay until a collection, and collections stop the streams of others."""
    answered = streams(token("a"), DONE) if wanted else replies(200, COMPLETION)
    stack = await start_stack([prefilled()], [answered])
    gc.collect()
    gc.disable()
    try:
        assert await stack.proxy.status("/v1/completions", json={"model": MODEL, "prompt": "x", **wanted}) == 200
        await eventually(lambda: not any(type(each) is Exchange for each in gc.get_objects()))
    finally:
        gc.enable()
