"""Streams on their way through the world: not held back by what is in between, and not ended by it for being silent."""

import asyncio
import json

import aiohttp
import pytest
from openai import AsyncOpenAI

from tests.unit.proxy.conftest import PATIENCE_S, StartStack, eventually, without_comment
from tests.unit.proxy.scripted import DONE, MODEL, Script, data, error, hangs, prefilled, replies, streams, token

STREAM = {"model": MODEL, "prompt": "San Francisco is a", "stream": True}
WHOLE = {"model": MODEL, "prompt": "San Francisco is a"}
SIGN = b": alive\n\n"
SILENCE_S = 0.2
PATH = "/v1/completions"


async def seen_after(answer: aiohttp.ClientResponse, signs: int, sign: bytes = SIGN) -> bytes:
    """What has come when so many signs of life have."""
    seen = b""
    async with asyncio.timeout(PATIENCE_S):
        while seen.count(sign) < signs:
            seen += await answer.content.readany()
    return seen


async def test_nobody_holds_a_stream_back(start_stack: StartStack) -> None:
    stack = await start_stack([prefilled()], [streams(token(" city"), DONE)])
    async with stack.proxy.post(PATH, json=STREAM) as answer:
        assert answer.headers["X-Accel-Buffering"] == "no"
        assert answer.headers["Cache-Control"] == "no-cache"
        assert SIGN not in await answer.read()


async def test_signs_of_life_before_the_first_token_and_between_tokens(start_stack: StartStack) -> None:
    first, second = asyncio.Event(), asyncio.Event()
    consumer = hangs(first, streams(token(" city"), second, token(" of"), DONE))
    stack = await start_stack([prefilled()], [consumer], proxy_stream_keepalive_s=SILENCE_S)
    async with stack.proxy.post(PATH, json=STREAM, headers={"X-Request-Id": "mine"}) as answer:
        assert (answer.status, answer.content_type) == (200, "text/event-stream")
        assert answer.headers["X-Request-Id"] == "mine"
        assert answer.headers["X-Accel-Buffering"] == "no"
        # Which instances it will be is not certain yet: there may be another try.
        assert [name for name in answer.headers if name.startswith("X-PD") or name == "Server-Timing"] == []
        before = await seen_after(answer, 2)
        assert before.replace(SIGN, b"") == b""
        first.set()
        between = await seen_after(answer, 2)
        assert between.replace(SIGN, b"") == token(" city")
        second.set()
        after = await answer.read()
    assert without_comment(after).replace(SIGN, b"") == token(" of") + DONE
    facts = json.loads(after.rpartition(b": pd ")[2])
    assert (facts["producer"], facts["consumer"], facts["request_id"]) == ("p0", "d0", "mine")


async def test_tokens_are_signs_enough(start_stack: StartStack) -> None:
    async def consumer(request: aiohttp.web.Request) -> aiohttp.web.StreamResponse:
        answer = aiohttp.web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await answer.prepare(request)
        for _ in range(50):
            await answer.write(token(" city"))
            await asyncio.sleep(SILENCE_S / 4)
        await answer.write(DONE)
        return answer

    stack = await start_stack([prefilled()], [consumer], proxy_stream_keepalive_s=10 * SILENCE_S)
    async with stack.proxy.post(PATH, json=STREAM) as answer:
        assert without_comment(await answer.read()) == token(" city") * 50 + DONE


@pytest.mark.parametrize(
    ("settings", "body"), [({"proxy_stream_keepalive_s": 0}, STREAM), ({"proxy_stream_keepalive_s": 0.05}, WHOLE)]
)
async def test_no_sign_where_none_is_wanted(
    settings: dict[str, float], body: dict[str, object], start_stack: StartStack
) -> None:
    refused = asyncio.Event()
    stack = await start_stack([prefilled()], [hangs(refused, error(400, "no"))], **settings)
    asked = asyncio.create_task(stack.proxy.status(PATH, json=body))
    await asyncio.sleep(0.3)
    refused.set()
    assert await asked == 400


@pytest.mark.parametrize("late", [error(400, "no such thing"), error(500, "broken")], ids=["refused", "broken"])
async def test_a_failure_is_a_status_at_first_and_an_event_later(late: Script, start_stack: StartStack) -> None:
    fails = asyncio.Event()
    stack = await start_stack([prefilled()], [hangs(fails, late)], proxy_stream_keepalive_s=SILENCE_S)
    async with stack.proxy.post(PATH, json=STREAM) as answer:
        assert answer.status == 200
        await seen_after(answer, 1)
        fails.set()
        rest = (await answer.read()).replace(SIGN, b"")
    said = json.loads(rest.removeprefix(b"data: "))["error"]
    assert "no such thing" in said["message"] or "broken" in said["message"]
    fails.set()  # now at once
    assert await stack.proxy.status(PATH, json=STREAM) in (400, 500)


async def test_a_proxy_that_shuts_down_says_so_after_a_sign_too(start_stack: StartStack) -> None:
    stack = await start_stack([hangs()], [hangs()], proxy_stream_keepalive_s=SILENCE_S)
    async with stack.proxy.post(PATH, json=STREAM) as answer:
        await seen_after(answer, 1)
        stack.proxy.gateway.abort_all()
        rest = (await answer.read()).replace(SIGN, b"")
    assert json.loads(rest.removeprefix(b"data: "))["error"]["code"] == "shutting_down"


async def test_another_instance_is_tried_unseen(start_stack: StartStack) -> None:
    fails, answers = asyncio.Event(), asyncio.Event()
    broken = hangs(fails, error(500, "broken"))
    good = hangs(answers, streams(token(" city"), DONE))
    stack = await start_stack([prefilled()], [broken, good], proxy_stream_keepalive_s=SILENCE_S)
    stack.proxy.gateway.fleet.begin(stack.consumers[1].record, 1000)  # so that the broken one is asked first
    async with stack.proxy.post(PATH, json=STREAM) as answer:
        await seen_after(answer, 1)
        fails.set()
        await asyncio.wait_for(stack.consumers[1].arrived.wait(), PATIENCE_S)
        answers.set()
        rest = await answer.read()
    assert without_comment(rest).replace(SIGN, b"") == token(" city") + DONE
    assert json.loads(rest.rpartition(b": pd ")[2])["consumer"] == "d1"


async def test_who_waits_in_the_queue_gets_signs_too(start_stack: StartStack) -> None:
    goes_on = asyncio.Event()
    consumer = hangs(goes_on, streams(token(" city"), DONE))
    bounds = {"proxy_max_running_requests": 1, "proxy_stream_keepalive_s": SILENCE_S}
    stack = await start_stack([prefilled()], [consumer], **bounds)
    first = asyncio.create_task(stack.proxy.status(PATH, json=STREAM))
    await asyncio.wait_for(stack.consumers[0].arrived.wait(), PATIENCE_S)
    async with stack.proxy.post(PATH, json=STREAM) as waiting:
        await seen_after(waiting, 1)
        assert len(stack.consumers[0].received) == 1
        goes_on.set()
        assert token(" city") in await waiting.read()
    assert await first == 200


async def test_a_whole_answer_for_who_was_promised_events(start_stack: StartStack) -> None:
    answers = asyncio.Event()
    consumer = hangs(answers, replies(200, {"choices": [{"text": " city"}]}))
    stack = await start_stack([prefilled()], [consumer], proxy_stream_keepalive_s=SILENCE_S)
    async with stack.proxy.post(PATH, json=STREAM) as answer:
        await seen_after(answer, 1)
        answers.set()
        assert (await answer.read()).replace(SIGN, b"") == data({"choices": [{"text": " city"}]}) + DONE


async def test_who_has_left_is_noticed_by_a_sign(start_stack: StartStack) -> None:
    stack = await start_stack([hangs()], [hangs()], proxy_stream_keepalive_s=SILENCE_S)
    async with stack.proxy.post(PATH, json=STREAM) as answer:
        await seen_after(answer, 1)
    await asyncio.wait_for(stack.consumers[0].cancelled.wait(), PATIENCE_S)
    await eventually(lambda: not stack.proxy.gateway.being_served)


async def test_anthropics_api_has_its_own_kind_of_sign(start_stack: StartStack) -> None:
    fails = asyncio.Event()
    stack = await start_stack([prefilled()], [hangs(fails, error(400, "no"))], proxy_stream_keepalive_s=SILENCE_S)
    body = {"model": MODEL, "max_tokens": 4, "messages": [{"role": "user", "content": "x"}], "stream": True}
    async with stack.proxy.post("/v1/messages", json=body) as answer:
        await seen_after(answer, 1, b'event: ping\ndata: {"type": "ping"}\n\n')
        fails.set()
        last = (await answer.read()).rpartition(b"event: error\ndata: ")[2]
    assert json.loads(last)["type"] == "error"


async def test_openais_client_skips_signs(start_stack: StartStack) -> None:
    first = asyncio.Event()
    stack = await start_stack(
        [prefilled()], [hangs(first, streams(token(" city"), DONE))], proxy_stream_keepalive_s=SILENCE_S
    )
    asyncio.get_running_loop().call_later(3 * SILENCE_S, first.set)
    async with AsyncOpenAI(base_url=f"{stack.proxy.url}/v1", api_key="x", max_retries=0) as client:
        stream = await client.completions.create(model=MODEL, prompt="x", stream=True)
        assert [piece.choices[0].text async for piece in stream] == [" city"]
