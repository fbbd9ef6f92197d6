"""What clients see of the verdicts: poison costs nobody else anything, and what is dead is left alone."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest
from aiohttp import web
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proxy.verdict import checks
from tests.unit.proxy.conftest import PATIENCE_S, Stack, StartStack, eventually
from tests.unit.proxy.scripted import (
    DONE,
    MODEL,
    Script,
    breaks,
    data,
    error,
    hangs,
    prefilled,
    replies,
    streams,
    token,
)

pytestmark = pytest.mark.timeout(120)

GOOD = {"model": MODEL, "prompt": "San Francisco is a"}
STREAM = GOOD | {"stream": True}
ANSWER = replies(200, {"choices": [{"text": " city"}]})


async def raises(request: web.Request) -> web.StreamResponse:
    """As vLLM under uvicorn: a moment after the answer the connection is closed, without a word about it."""
    assert request.transport is not None
    asyncio.get_running_loop().call_later(0.01, request.transport.close)
    return await error(500, "'function'")(request)


KEY_ERROR: Script = raises
# What makes a healthy vLLM answer so: a KeyError in a validator; a field's value; an exception in a stream's generator;
# one that ends it early; its queue.
POISON: dict[str, Script] = {
    "500": KEY_ERROR,
    "400": error(400, "temperature must be non-negative"),
    "broken": streams(token(" city"), end=breaks()),
    "reset": breaks(),
    "unfinished": streams(token(" city")),
    "busy": error(503, "The engine is currently busy"),
}


async def answers(request: web.Request) -> web.StreamResponse:
    """As a healthy instance does: what is in `user` decides."""
    body = await request.json()
    poison = POISON.get(body.get("user", "").partition(" ")[0])
    if poison is not None:
        return await poison(request)
    return await (streams(token(" city"), DONE) if body.get("stream") else ANSWER)(request)


def poisonous(kind: str, number: int = 0) -> dict[str, Any]:
    """No two are alike."""
    return STREAM | {"user": f"{kind} {number}", "prompt": f"{number} is a number"}


def blocked(stack: Stack) -> set[str]:
    return set(stack.proxy.gateway.breakers.blocked())


async def send(stack: Stack, body: dict[str, Any]) -> int:
    """The status; 0 for a stream that failed."""
    async with stack.proxy.post("/v1/completions", json=body) as answer:
        content = await answer.read()
        return 0 if answer.status == 200 and b'{"error"' in content else answer.status


@pytest.mark.parametrize("kind", POISON)
@pytest.mark.parametrize(("producers", "consumers"), [(1, 1), (2, 3), (0, 1)], ids=["pair", "several", "no producer"])
async def test_poison_costs_nobody_else_anything(
    producers: int, consumers: int, kind: str, start_stack: StartStack
) -> None:
    """The second message of a client that has sent its first fifty times, ten at once, is answered as ever."""
    stack = await start_stack([answers] * producers, [answers] * consumers, proxy_no_producer="local")
    for begin in range(0, 50, 10):
        statuses = await asyncio.gather(*(send(stack, poisonous(kind, begin + each)) for each in range(10)))
        assert 503 not in statuses or kind == "busy"
        assert not blocked(stack)
        assert await send(stack, GOOD) == 200
    assert [await stack.proxy.status("/tokenize", json=GOOD) for _ in range(3)] == [200] * 3
    assert not blocked(stack)


async def test_a_thousand_poisonous_requests_make_no_more_than_a_question_a_second(start_stack: StartStack) -> None:
    stack = await start_stack([], [answers], proxy_no_producer="local")
    begun = asyncio.get_running_loop().time()
    for begin in range(0, 1000, 50):
        await asyncio.gather(*(send(stack, poisonous("500", begin + each)) for each in range(50)))
        assert not blocked(stack)
    passed = asyncio.get_running_loop().time() - begun
    assert 1 <= stack.consumers[0].asked.count("/v1/completions") <= 1 + passed
    assert await send(stack, GOOD) == 200


@pytest.mark.parametrize("where", ["both legs", "the producer", "the consumer"])
async def test_poison_in_either_leg(where: str, start_stack: StartStack) -> None:
    stack = await start_stack([answers], [answers])
    if where == "the producer":
        stack.consumers[0].script = waits_for_poison
    elif where == "the consumer":
        stack.producers[0].script = prefilled()
    for number in range(10):
        async with stack.proxy.post("/v1/completions", json=poisonous("500", number)) as answer:
            assert answer.status == 500
            assert (await answer.json())["error"]["message"] == "'function'"
    assert not blocked(stack)
    assert await send(stack, GOOD) == 200


@pytest.mark.parametrize("whole", [True, False], ids=["at once", "in pieces"])
async def test_nobody_elses_request_is_sent_over_a_connection_that_poison_has_ended(
    whole: bool, start_stack: StartStack
) -> None:
    async def in_pieces(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(status=500, headers={"Content-Type": "application/json"})
        await response.prepare(request)
        for piece in (b'{"error": ', b'{"message": "\'function\'"}}'):
            await asyncio.sleep(0.01)
            await response.write(piece)
        assert request.transport is not None
        asyncio.get_running_loop().call_later(0.01, request.transport.close)
        return response

    async def takes_a_while(request: web.Request) -> web.StreamResponse:
        if (await request.json()).get("user"):
            return await (raises if whole else in_pieces)(request)
        await asyncio.sleep(0.05)
        return await ANSWER(request)

    stack = await start_stack([], [takes_a_while], proxy_no_producer="local")
    for number in range(5):
        assert await send(stack, poisonous("500", number)) == 500
        assert await send(stack, GOOD) == 200


async def waits_for_poison(request: web.Request) -> web.StreamResponse:
    """The consumer whose blocks never come."""
    return await (hangs() if (await request.json()).get("user") else ANSWER)(request)


async def test_a_doubt_is_told_until_the_instance_has_answered(start_stack: StartStack) -> None:
    gate = asyncio.Event()
    stack = await start_stack([], [KEY_ERROR], proxy_no_producer="local")
    stack.consumers[0].health = hangs(gate, replies(200, b""))
    assert await send(stack, GOOD) == 500
    await eventually(lambda: stack.consumers[0].asked == ["/health"])
    line = 'pd_proxy_instance_in_doubt{instance="d0",role="decode"}'
    assert await stack.proxy.metric(line) == 1
    stack.consumers[0].script = ANSWER
    gate.set()
    await eventually(lambda: not stack.proxy.gateway.breakers.in_doubt("d0"))
    assert await stack.proxy.metric(line) == 0
    assert await stack.proxy.metric('pd_proxy_checks_total{result="well",role="decode"}') == 1


@pytest.mark.parametrize("together", [True, False])
async def test_an_error_in_a_stream_that_ends_well_is_no_good_answer(together: bool, start_stack: StartStack) -> None:
    told = data({"error": {"message": "EngineCore", "type": "InternalServerError", "param": None, "code": 500}})
    events = [token(" city") + told + DONE] if together else [token(" city"), told, DONE]
    stack = await start_stack([], [streams(*events)], proxy_no_producer="local")
    assert await send(stack, STREAM) == 0
    await eventually(lambda: "/v1/completions" in stack.consumers[0].asked)
    assert await stack.proxy.metric('pd_proxy_leg_failures_total{cause="error",role="decode"}') == 1


async def test_without_a_doubt_nobody_is_asked(start_stack: StartStack) -> None:
    stack = await start_stack([answers], [answers])
    for body in (GOOD, STREAM, poisonous("400")):
        await send(stack, body)
    assert [each.asked for each in stack.producers + stack.consumers] == [[], []]


@pytest.mark.parametrize(
    "dies",
    [
        lambda server: setattr(server, "script", KEY_ERROR),
        lambda server: setattr(server, "script", error(503, "EngineCore is dead")),
        lambda server: setattr(server, "script", breaks()),
        lambda server: setattr(server, "script", streams(token(" city"), end=breaks())),
        lambda server: setattr(server, "script", error(401, "another key")),
    ],
    ids=["500", "503", "reset", "broken streams", "key"],
)
async def test_an_instance_that_fails_at_everything_is_left_alone(
    dies: Callable[[Any], None], start_stack: StartStack
) -> None:
    stack = await start_stack([], [answers, answers], proxy_no_producer="local", proxy_breaker_cooldown_s=30)
    assert [await send(stack, GOOD) for _ in stack.consumers] == [200, 200]
    dead = stack.consumers[0]
    dies(dead)
    dead.health = replies(503, b"") if dead.script is not KEY_ERROR else dead.health
    async with asyncio.timeout(PATIENCE_S):
        while blocked(stack) != {"d0"}:
            await send(stack, STREAM)
    before = len(dead.received)
    assert [await send(stack, STREAM) for _ in range(5)] == [200] * 5
    assert len(dead.received) == before


async def test_an_instance_that_is_gone_is_left_alone_within_three_failures_while_poison_arrives(
    start_stack: StartStack,
) -> None:
    stack = await start_stack([], [answers, answers], proxy_no_producer="local", proxy_breaker_cooldown_s=30)
    poison = asyncio.gather(*(send(stack, poisonous("500", number)) for number in range(30)))
    await stack.consumers[0].stop()
    await poison
    assert [await send(stack, GOOD) for _ in range(6)] == [200] * 6
    assert blocked(stack) == {"d0"}
    failed = await stack.proxy.metric('pd_proxy_leg_failures_total{cause="unreachable",role="decode"}')
    assert failed <= 3 + 30, "those under way, and three"
    assert [await send(stack, GOOD) for _ in range(6)] == [200] * 6
    assert await stack.proxy.metric('pd_proxy_leg_failures_total{cause="unreachable",role="decode"}') == failed


async def test_a_silent_instance_is_left_alone(start_stack: StartStack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "PROMPT_S", 0.2)
    stack = await start_stack(
        [],
        [streams(token(" city"), end=hangs())],
        proxy_no_producer="local",
        proxy_token_timeout_s=0.2,
        proxy_breaker_failures=2,
        proxy_breaker_cooldown_s=30,
    )
    assert [await send(stack, STREAM) for _ in range(2)] == [0, 0]
    await eventually(lambda: blocked(stack) == {"d0"})
    assert await send(stack, STREAM) == 503


async def test_only_the_proxys_own_question_brings_it_back(start_stack: StartStack) -> None:
    """No request of a client is its probe, so none can be in its way."""
    gate = asyncio.Event()
    settings = {"proxy_breaker_failures": 1, "proxy_breaker_cooldown_s": 0.2}
    stack = await start_stack([], [KEY_ERROR], proxy_no_producer="local", **settings)
    consumer = stack.consumers[0]
    assert await send(stack, GOOD) == 500
    await eventually(lambda: blocked(stack) == {"d0"})
    consumer.script = hangs(gate, ANSWER)
    await eventually(lambda: stack.proxy.gateway.breakers.state("d0") == "half_open")
    assert [await send(stack, GOOD) for _ in range(5)] == [503] * 5
    gate.set()
    await eventually(lambda: not blocked(stack))
    assert [await send(stack, GOOD) for _ in range(5)] == [200] * 5


async def test_it_is_asked_again_and_again_until_it_is_back(start_stack: StartStack) -> None:
    settings = {"proxy_breaker_failures": 1, "proxy_breaker_cooldown_s": 0.1}
    stack = await start_stack([], [KEY_ERROR], proxy_no_producer="local", **settings)
    assert await send(stack, GOOD) == 500
    consumer = stack.consumers[0]
    await eventually(lambda: consumer.asked.count("/v1/completions") == 3)
    assert blocked(stack) == {"d0"}
    consumer.script = ANSWER
    await eventually(lambda: not blocked(stack))
    assert await send(stack, GOOD) == 200
    assert len(consumer.received) == 2


async def test_the_question_has_nothing_of_any_client(start_stack: StartStack) -> None:
    stack = await start_stack([], [], [answers], openai_api_key="the-stacks-key")
    asked: list[tuple[str | None, dict[str, Any]]] = []

    async def notes(request: web.Request) -> web.StreamResponse:
        asked.append((request.headers.get("Authorization"), json.loads(await request.read())))
        return await answers(request)

    assert await send(stack, poisonous("500")) == 500
    stack.aggregated[0].script = notes
    await eventually(lambda: len(stack.aggregated[0].asked) == 2)
    # The first question may have been put before.
    await eventually(lambda: not stack.proxy.gateway.breakers.in_doubt("a0"))
    for authorization, body in asked:
        assert authorization == "Bearer the-stacks-key"
        assert body == {"model": MODEL, "prompt": "San Francisco is a", "max_tokens": 1, "temperature": 0}


ORDERS = st.lists(st.sampled_from(["good", *POISON]), min_size=1, max_size=25)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(order=ORDERS, consumers=st.integers(1, 3), at_once=st.integers(1, 4))
async def test_in_any_order_what_is_good_is_answered(
    order: list[str], consumers: int, at_once: int, start_stack: StartStack
) -> None:
    stack = await start_stack([answers], [answers] * consumers)
    limit = asyncio.Semaphore(at_once)

    async def one(kind: str, number: int) -> int:
        async with limit:
            return await send(stack, STREAM if kind == "good" else poisonous(kind, number))

    statuses = await asyncio.gather(*(one(kind, number) for number, kind in enumerate(order)))
    assert {status for status, kind in zip(statuses, order, strict=True) if kind == "good"} <= {200}
    assert not blocked(stack)
    await eventually(lambda: not any(stack.proxy.gateway.fleet.outstanding(f"d{number}") for number in range(3)))


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(order=ORDERS, dies_at=st.integers(0, 24))
async def test_in_any_order_a_dead_instance_costs_a_good_request_nothing(
    order: list[str], dies_at: int, start_stack: StartStack
) -> None:
    """What is sent to the dead one, three at most before it is left alone, has another try at the other consumer."""
    stack = await start_stack([], [answers, answers], proxy_no_producer="local", proxy_breaker_cooldown_s=30)
    for number, kind in enumerate([*order, *["good"] * 6]):
        if number == min(dies_at, len(order)):
            await stack.consumers[0].stop()
        status = await send(stack, STREAM if kind == "good" else poisonous(kind, number))
        assert kind != "good" or status == 200
    assert blocked(stack) == {"d0"}
    assert await stack.proxy.metric('pd_proxy_leg_failures_total{cause="unreachable",role="decode"}') <= 3
