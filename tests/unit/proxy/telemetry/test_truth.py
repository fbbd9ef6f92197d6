"""What the proxy says of each request: headers, the last comment of a stream, metrics, spans."""

import asyncio
import json
from itertools import product
from typing import Any

import pytest
from aiohttp import web
from structlog.testing import capture_logs

from proxy.telemetry.logs import FIELDS
from tests.unit.proxy.conftest import PATIENCE_S, Stack, StartStack, eventually, without_comment
from tests.unit.proxy.scripted import DONE, MODEL, Script, data, error, prefilled, replies, streams, token

STREAM = {"model": MODEL, "prompt": "San Francisco is a", "stream": True}
WHOLE = {"model": MODEL, "prompt": "San Francisco is a"}
FACTS = {"bytes": 4096, "tokens": 4, "seconds": 0.2, "exposed_seconds": 0.0005, "transport": "tcp"}


def told(script: Script, facts: dict[str, Any]) -> Script:
    """The script, with a transfer's facts as the consumer's middleware adds them."""

    async def with_facts(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        body = await request.json()
        if "kv_transfer_params" in body:
            assert request.headers["X-PD-Transfer-Id"] == body["kv_transfer_params"]["transfer_id"]
            response.headers["X-PD-Transfer-Facts"] = json.dumps(facts)
        if not body.get("stream"):
            response.content_type = "application/json"
        await response.prepare(request)
        for event in (token(" city"), DONE) if body.get("stream") else (b'{"choices": []}',):
            await response.write(event)
        return response

    return with_facts


async def start_pair(start_stack: StartStack, producer: Script | None = None, **settings: Any) -> Stack:
    """A pair whose consumer answers once the producer has, as real ones do."""

    async def consumer(request: web.Request) -> web.StreamResponse:
        await eventually(lambda: stack.proxy.gateway.fleet.outstanding("p0") == 0)
        return await told(streams(), FACTS)(request)

    stack = await start_stack([producer or prefilled()], [consumer], **settings)
    return stack


@pytest.mark.parametrize("body", [STREAM, WHOLE], ids=["stream", "whole"])
@pytest.mark.parametrize("tokens", [3, 0])
async def test_what_the_producer_has_loaded_from_a_store_is_told_everywhere(
    body: dict[str, Any], tokens: int, start_stack: StartStack
) -> None:
    producer = replies(200, {"choices": [{"text": " city"}], "kv_transfer_params": {"store_tokens": tokens}})
    stack = await start_pair(start_stack, producer)
    with capture_logs() as lines:
        async with stack.proxy.post("/v1/completions", json=body) as answer:
            await answer.read()
        await eventually(lambda: [line for line in lines if line["event"] == "request"] != [])
    assert answer.headers["X-PD-Store-Tokens"] == str(tokens)
    (logged,) = (line[FIELDS] for line in lines if line["event"] == "request")
    assert logged["store_tokens"] == tokens
    assert await stack.proxy.metric("pd_proxy_store_tokens_total") == tokens
    result = "hit" if tokens else "miss"
    assert await stack.proxy.metric(f'pd_proxy_store_prompts_total{{result="{result}"}}') == 1


async def test_a_store_is_told_of_in_the_last_comment_when_the_producer_answers_behind_the_first_token(
    start_stack: StartStack,
) -> None:
    begun, answered = asyncio.Event(), asyncio.Event()

    async def producer(request: web.Request) -> web.StreamResponse:
        await begun.wait()
        return web.json_response({"choices": [], "kv_transfer_params": {"store_tokens": 3}})

    stack = await start_stack([producer], [streams(token(" city"), answered, DONE)])
    async with stack.proxy.post("/v1/completions", json=STREAM) as answer:
        assert "X-PD-Store-Tokens" not in answer.headers
        begun.set()
        await eventually(lambda: stack.proxy.gateway.fleet.outstanding("p0") == 0)
        answered.set()
        text = await answer.read()
    (comment,) = (line for line in text.decode().splitlines() if line.startswith(": pd "))
    assert json.loads(comment.removeprefix(": pd "))["store_tokens"] == 3


async def test_without_a_store_nothing_is_said_of_one(start_stack: StartStack) -> None:
    stack = await start_pair(start_stack)
    async with stack.proxy.post("/v1/completions", json=STREAM) as answer:
        assert b"store_tokens" not in await answer.read()
    assert "X-PD-Store-Tokens" not in answer.headers
    assert "pd_proxy_store_prompts_total{" not in stack.proxy.gateway.metrics.exposition().decode()


@pytest.mark.parametrize("body", [STREAM, WHOLE], ids=["stream", "whole"])
async def test_the_headers_say_who_served_and_what_moved(body: dict[str, Any], start_stack: StartStack) -> None:
    stack = await start_pair(start_stack)
    async with stack.proxy.post("/v1/completions", json=body) as answer:
        await answer.read()
    shown = {
        name: answer.headers.get(f"X-PD-{name}") for name in ("Producer", "Consumer", "Path", "Reason", "Transport")
    }
    assert shown == {
        "Producer": "p0",
        "Consumer": "d0",
        "Path": "disaggregated",
        "Reason": "disaggregated",
        "Transport": "tcp",
    }
    assert (answer.headers["X-PD-KV-Bytes"], answer.headers["X-PD-KV-Tokens"]) == ("4096", "4")
    timing = dict(part.split(";dur=") for part in answer.headers["Server-Timing"].split(", "))
    assert set(timing) == {"queue", "prefill", "transfer", "first_step" if body.get("stream") else "answer"}
    assert float(timing["transfer"]) == 0.5
    assert await stack.proxy.metric('pd_proxy_kv_bytes_total{transport="tcp"}') == 4096
    assert await stack.proxy.metric('pd_proxy_transfers_total{result="moved"}') == 1


async def test_a_streams_last_comment_has_it_all(start_stack: StartStack) -> None:
    stack = await start_pair(start_stack)
    async with stack.proxy.post("/v1/completions", json=STREAM, headers={"X-Request-Id": "mine"}) as answer:
        stream = await answer.read()
    assert without_comment(stream) == token(" city") + DONE
    comment = json.loads(stream.rpartition(b": pd ")[2])
    phases = ("queue_ms", "prefill_ms", "transfer_ms", "first_step_ms")
    assert (comment["request_id"], comment["path"], comment["kv_bytes"]) == ("mine", "disaggregated", 4096)
    assert sum(comment[phase] for phase in phases) <= comment["duration_ms"] + 1


async def test_a_cache_that_did_not_arrive_is_said_so(start_stack: StartStack) -> None:
    stack = await start_stack([prefilled()], [told(streams(), {"transfer_id": "t", "bytes": 0, "tokens": 0})])
    async with stack.proxy.post("/v1/completions", json=WHOLE) as answer:
        assert (answer.headers["X-PD-KV-Bytes"], answer.headers["X-PD-KV-Tokens"]) == ("0", "0")
    assert await stack.proxy.metric('pd_proxy_transfers_total{result="recomputed"}') == 1


@pytest.mark.parametrize(
    ("body", "settings", "reason"),
    [
        (WHOLE, {"proxy_local_prompt_tokens": 100}, "short_prompt"),
        (WHOLE | {"n": 2}, {}, "n"),
        (WHOLE | {"prompt": ["a", "b"]}, {}, "prompt"),
    ],
)
async def test_the_consumer_alone(
    body: dict[str, Any], settings: dict[str, Any], reason: str, start_stack: StartStack
) -> None:
    stack = await start_pair(start_stack, **settings)
    async with stack.proxy.post("/v1/completions", json=body) as answer:
        assert (answer.headers["X-PD-Path"], answer.headers["X-PD-Reason"]) == ("local", reason)
        assert "X-PD-Producer" not in answer.headers
        assert "X-PD-KV-Bytes" not in answer.headers
        assert "prefill" not in answer.headers["Server-Timing"]
    assert stack.consumers[0].received[0].body == body
    assert not stack.producers[0].received
    assert await stack.proxy.metric(f'pd_proxy_dispatched_total{{path="local",reason="{reason}"}}') == 1


async def test_without_a_producer_the_policy_decides(start_stack: StartStack) -> None:
    stack = await start_stack([], [told(streams(), FACTS)], proxy_no_producer="local")
    async with stack.proxy.post("/v1/completions", json=WHOLE) as answer:
        assert (answer.status, answer.headers["X-PD-Reason"]) == (200, "no_producer")
    async with stack.proxy.client.get(stack.proxy.url + "/ready") as ready:
        assert ready.status == 200


async def test_usage_has_the_cached_tokens_of_one_server(start_stack: StartStack) -> None:
    def usage(cached: int) -> dict[str, Any]:
        return {
            "usage": {"prompt_tokens": 40, "completion_tokens": 1, "prompt_tokens_details": {"cached_tokens": cached}}
        }

    stack = await start_stack([replies(200, usage(32))], [replies(200, usage(39))])
    async with stack.proxy.post("/v1/completions", json=WHOLE) as answer:
        assert await answer.json() == usage(32)


async def test_a_wrong_key_is_401_and_the_name_of_a_right_one_is_counted(start_stack: StartStack) -> None:
    stack = await start_pair(start_stack, proxy_api_keys="alice:a1,bob:b2")
    for headers in ({}, {"Authorization": "Bearer a2"}):
        async with stack.proxy.post("/v1/completions", json=WHOLE, headers=headers) as answer:
            assert (answer.status, answer.headers["WWW-Authenticate"]) == (401, "Bearer")
    assert not stack.consumers[0].received
    for headers in ({"Authorization": "Bearer a1"}, {"x-api-key": "b2"}):
        assert await stack.proxy.status("/v1/completions", json=WHOLE, headers=headers) == 200
    for name, count in (("alice", 1), ("bob", 1)):
        line = f'pd_proxy_requests_total{{client="{name}",endpoint="/v1/completions",outcome="ok",status="200"}}'
        assert await stack.proxy.metric(line) == count
    assert "Authorization" not in stack.consumers[0].received[0].headers
    paths = {"/v1/models": 401, "//v1/models": 401, "/instances": 401, "/health": 200, "/ready": 200}
    for method, (path, status) in product(("GET", "HEAD"), paths.items()):
        async with stack.proxy.client.request(method, stack.proxy.url + path) as answer:
            assert answer.status == status


async def test_a_failing_instance_is_left_alone_for_a_while(start_stack: StartStack) -> None:
    stack = await start_stack([prefilled()], [error(500, "x")], proxy_breaker_failures=2, proxy_breaker_cooldown_s=30)
    assert await stack.proxy.status("/v1/completions", json=WHOLE) == 500
    await eventually(lambda: stack.proxy.gateway.breakers.state("d0") == "open")
    async with stack.proxy.post("/v1/completions", json=WHOLE) as answer:
        assert answer.status == 503
        assert 25 <= int(answer.headers["Retry-After"]) <= 30
        assert "d0" in (await answer.json())["error"]["message"]
    assert await stack.proxy.metric('pd_proxy_circuit_closed{instance="d0",role="decode"}') == 0
    assert await stack.proxy.metric('pd_proxy_checks_total{result="ill",role="decode"}') == 2
    assert len(stack.consumers[0].received) == 1
    async with stack.proxy.client.get(stack.proxy.url + "/instances") as answer:
        verdicts = {each["instance_id"]: each["verdict"] for each in (await answer.json())["instances"]}
    assert verdicts["p0"] == {"circuit": "closed", "in_doubt": False, "failures": 0, "last_check": None}
    assert (verdicts["d0"]["circuit"], verdicts["d0"]["last_check"]["result"]) == ("open", "ill")


async def test_beyond_its_bounds_the_proxy_is_busy(start_stack: StartStack) -> None:
    release = asyncio.Event()
    stack = await start_stack(
        [prefilled()],
        [streams(release, token(" city"), DONE)],
        proxy_max_running_requests=1,
        proxy_max_queued_requests=1,
    )
    first = asyncio.create_task(stack.proxy.status("/v1/completions", json=STREAM))
    await asyncio.wait_for(stack.consumers[0].arrived.wait(), PATIENCE_S)
    second = asyncio.create_task(stack.proxy.status("/v1/completions", json=STREAM))
    async with asyncio.timeout(PATIENCE_S):
        while await stack.proxy.metric("pd_proxy_queued_requests") < 1:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    async with stack.proxy.post("/v1/completions", json=STREAM) as answer:
        assert (answer.status, (await answer.json())["error"]["code"]) == (429, "overloaded")
        assert int(answer.headers["Retry-After"]) >= 1
    release.set()
    assert (await first, await second) == (200, 200)


async def test_an_error_in_a_stream_that_ends_well_is_told_as_a_failure(start_stack: StartStack) -> None:
    words = "EngineCore encountered an issue"
    told = data({"error": {"message": words, "type": "InternalServerError", "param": None, "code": 500}})
    stack = await start_stack([], [streams(token(" city"), told, DONE)], proxy_no_producer="local")
    with capture_logs() as lines:
        async with stack.proxy.post("/v1/completions", json=STREAM) as answer:
            assert without_comment(await answer.read()) == token(" city") + told + DONE
    [line] = (each[FIELDS] for each in lines if each["event"] == "request")
    failure = f"The decode instance d0 told of an error in its stream: {words}."
    assert (line["status"], line["outcome"], line["error"]) == (200, "instance_error", failure)
    labels = 'client="",endpoint="/v1/completions",outcome="instance_error",status="200"'
    assert await stack.proxy.metric(f"pd_proxy_requests_total{{{labels}}}") == 1
    history = stack.proxy.gateway.metrics.history
    [past] = history.since(0)
    assert (past.ended.outcome, past.ended.failure) == ("instance_error", failure)
    assert ("outcome", "instance_error") in {name for slot in history.slots() for name, _ in slot.told()}
