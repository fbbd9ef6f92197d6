"""What a client gets when a leg fails: an honest status before the first chunk, an error event after it."""

import asyncio
import json
from dataclasses import dataclass
from typing import Any

import pytest

from tests.unit.proxy.conftest import PATIENCE_S, Stack, StartStack, eventually, without_comment
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

STREAM = {"model": MODEL, "prompt": "San Francisco is a", "stream": True}
WHOLE = {"model": MODEL, "prompt": "San Francisco is a"}
ANSWER = replies(200, {"choices": [{"text": " city"}]})
GOOD_STREAM = streams(token(" city"), DONE)
TOO_LONG = "This model's maximum context length is 4096 tokens."


def error_event(code: int, message: str) -> bytes:
    return data({"error": {"message": message, "type": "InternalServerError", "param": None, "code": code}})


@dataclass(frozen=True)
class Case:
    """One producer and one consumer; `code` is OpenAI's error code in the answer, `text` is in its message."""

    name: str
    producer: Script
    consumer: Script
    status: int
    code: str | int
    text: str = ""
    body: dict[str, Any] | None = None


CASES = [
    Case("producer rejects", error(400, TOO_LONG), hangs(), 400, 400, TOO_LONG),
    Case("consumer rejects", hangs(), error(400, TOO_LONG), 400, 400, TOO_LONG),
    Case("both reject", error(400, TOO_LONG), error(400, TOO_LONG), 400, 400, TOO_LONG),
    Case("consumer rejects a whole answer", hangs(), error(422, "no"), 422, 422, "no", WHOLE),
    Case("4xx of another shape", replies(404, {"detail": "Not Found"}), hangs(), 404, 404, "Not Found"),
    Case("4xx that is not JSON", hangs(), replies(413, b"too large"), 413, 413, "too large"),
    Case("producer 500", error(500, "'function'"), hangs(), 500, 500, "'function'"),
    Case("consumer 500", hangs(), error(500, "'function'"), 500, 500, "'function'"),
    Case("consumer 500 whole", hangs(), error(500, "'function'"), 500, 500, "'function'", WHOLE),
    Case("consumer 500 that is not JSON", hangs(), replies(500, b"Internal Server Error"), 500, 500, "Internal Server"),
    Case("consumer 501", hangs(), error(501, "not implemented"), 501, 501, "not implemented"),
    Case("consumer 503 whole", hangs(), error(503, "busy"), 503, 503, "busy", WHOLE),
    Case("producer 503", error(503, "busy"), hangs(), 503, 503, "busy"),
    Case("consumer 503 without a word", hangs(), replies(503, b""), 503, 503, "(no text)"),
    Case("consumer 503 while it scales", hangs(), replies(503, {"error": "scaling"}), 503, 503, "scaling"),
    Case("producer refuses our key", error(401, "Unauthorized"), hangs(), 502, "instance_error", "p0 answered 401"),
    Case("producer redirects", replies(307, b"", Location="/x"), hangs(), 502, "instance_error", "p0 answered 307"),
    Case("producer resets", breaks(), hangs(), 502, "answer_broken", "p0"),
    Case("consumer resets", hangs(), breaks(), 502, "answer_broken", "d0"),
    Case("consumer resets after its headers", hangs(), streams(end=breaks()), 502, "answer_broken", "d0"),
    Case("consumer resets in its first event", hangs(), streams(b"data: {", end=breaks()), 502, "answer_broken"),
    Case("consumer ends without an event", prefilled(), streams(), 502, "answer_broken", "before the first token"),
    Case("first event is a 500", hangs(), streams(error_event(500, "EngineCore"), DONE), 500, 500, "EngineCore"),
    Case("first event is a 503", hangs(), streams(error_event(503, "busy"), DONE), 503, 503, "busy"),
    Case("first event is a 400", hangs(), streams(error_event(400, "bad regex"), DONE), 400, 400, "bad regex"),
    Case(
        "first event is an error in two chunks",
        prefilled(),
        streams(b": ping\n\n", error_event(500, "EngineCore")[:20], error_event(500, "EngineCore")[20:], DONE),
        500,
        500,
        "EngineCore",
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
async def test_a_failure_before_the_first_chunk_is_a_status(case: Case, start_stack: StartStack) -> None:
    stack = await start_stack([case.producer], [case.consumer])

    async with stack.proxy.post("/v1/completions", json=case.body or STREAM) as answer:
        shown = await answer.json()
        assert (answer.status, shown["error"]["code"]) == (case.status, case.code)
        assert case.text in shown["error"]["message"]
        assert set(shown["error"]) == {"message", "type", "param", "code"}
        assert answer.headers["X-PD-Producer"] == "p0"

    await _settled(stack)
    # There is no other instance to try, and a leg may be cancelled before it arrives.
    assert {len(stack.producers[0].received), len(stack.consumers[0].received)} <= {0, 1}


async def _settled(stack: Stack) -> None:
    fleet = stack.proxy.gateway.fleet
    await eventually(lambda: all(fleet.outstanding(name) == 0 for name in ("p0", "p1", "d0", "d1")))
    assert not stack.proxy.gateway.being_served
    assert await stack.proxy.metric("pd_proxy_requests_in_flight") == 0


@pytest.mark.parametrize("failing", [error(500, "x"), breaks()], ids=["500", "reset"])
@pytest.mark.parametrize("body", [STREAM, WHOLE], ids=["stream", "whole"])
async def test_a_failed_producer_is_replaced(failing: Script, body: dict[str, Any], start_stack: StartStack) -> None:
    """The consumer waits for a producer's blocks as the real one does: only the second transfer is answered."""
    ids: list[str] = []
    answer = GOOD_STREAM if body is STREAM else ANSWER

    async def consumer(request: Any) -> Any:
        ids.append((await request.json())["kv_transfer_params"]["transfer_id"])
        return await (hangs() if len(ids) == 1 else answer)(request)

    stack = await start_stack([failing, prefilled()], [consumer])
    async with stack.proxy.post("/v1/completions", json=body) as response:
        assert response.status == 200
        assert response.headers["X-PD-Producer"] == "p1"
        assert response.headers["X-PD-Transfer-Id"] == ids[1] != ids[0]
    assert stack.consumers[0].cancelled.is_set()
    assert await stack.proxy.metric('pd_proxy_retries_total{role="prefill"}') == 1
    await _settled(stack)


@pytest.mark.parametrize("failing", [error(500, "x"), breaks(), streams(end=breaks())], ids=["500", "reset", "later"])
async def test_a_failed_consumer_is_replaced(failing: Script, start_stack: StartStack) -> None:
    stack = await start_stack([hangs()], [failing, GOOD_STREAM])
    async with stack.proxy.post("/v1/completions", json=STREAM) as response:
        assert (response.status, response.headers["X-PD-Consumer"]) == (200, "d1")
        assert without_comment(await response.read()) == token(" city") + DONE
    first, second = (each.body["kv_transfer_params"]["transfer_id"] for each in stack.producers[0].received)
    assert first != second
    assert await stack.proxy.metric('pd_proxy_retries_total{role="decode"}') == 1


async def test_an_instance_that_is_gone_is_replaced(start_stack: StartStack) -> None:
    stack = await start_stack([hangs(), prefilled()], [GOOD_STREAM])
    await stack.producers[0].stop()
    stack.consumers[0].script = hangs()  # the first transfer never completes

    request = asyncio.create_task(stack.proxy.status("/v1/completions", json=STREAM))
    await asyncio.wait_for(stack.producers[1].arrived.wait(), PATIENCE_S)
    await eventually(lambda: stack.proxy.gateway.fleet.outstanding("p1") == 0)
    line = 'pd_proxy_leg_failures_total{cause="unreachable",role="prefill"}'
    assert await stack.proxy.metric(line) == 1
    request.cancel()


async def test_there_are_two_tries_not_three(start_stack: StartStack) -> None:
    stack = await start_stack([hangs()], [breaks()] * 3)
    assert await stack.proxy.status("/v1/completions", json=STREAM) == 502
    assert sum(len(server.received) for server in stack.consumers) == 2


@pytest.mark.parametrize(
    ("first", "second", "should_retry"),
    [(500, 500, "false"), (500, 502, None), (500, None, None)],
    ids=["the same", "another", "no second"],
)
async def test_what_two_instances_answer_alike_clients_are_told_not_to_repeat(
    first: int, second: int | None, should_retry: str | None, start_stack: StartStack
) -> None:
    consumers = [error(first, "'function'"), *([error(second, "'function'")] if second else [])]
    stack = await start_stack([hangs()], consumers)
    async with stack.proxy.post("/v1/completions", json=STREAM) as answer:
        assert (answer.status, answer.headers.get("X-Should-Retry")) == (second or first, should_retry)
        assert (await answer.json())["error"]["message"] == "'function'"


async def test_a_rejected_request_is_not_tried_again(start_stack: StartStack) -> None:
    stack = await start_stack([error(400, TOO_LONG)] * 2, [hangs()] * 2)
    assert await stack.proxy.status("/v1/completions", json=STREAM) == 400
    assert sum(len(server.received) for server in stack.producers) == 1


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("given", ["7", None])
async def test_what_a_busy_instance_says_is_passed_on_with_retry_after(
    status: int, given: str | None, start_stack: StartStack
) -> None:
    words = {"error": {"message": "busy", "type": "Service Unavailable", "param": None, "code": status}}
    stack = await start_stack([hangs()], [replies(status, words, **({"Retry-After": given} if given else {}))])
    async with stack.proxy.post("/v1/completions", json=STREAM) as answer:
        assert (answer.status, answer.headers["Retry-After"]) == (status, given or "1")
        assert await answer.json() == words


@pytest.mark.parametrize("role", ["prefill", "decode"])
async def test_another_instance_answers_for_a_busy_one(role: str, start_stack: StartStack) -> None:
    busy = error(503, "busy")
    producers, consumers = ([busy, prefilled()], [ANSWER]) if role == "prefill" else ([hangs()], [busy, ANSWER])
    stack = await start_stack(producers, consumers)
    if role == "prefill":  # the consumer waits for blocks
        stack.consumers[0].script = streams(stack.producers[1].arrived, token(" city"), DONE)
    assert await stack.proxy.status("/v1/completions", json=STREAM) == 200
    assert await stack.proxy.metric(f'pd_proxy_leg_failures_total{{cause="busy",role="{role}"}}') == 1


@pytest.mark.parametrize(
    ("producer", "consumer", "cancelled"),
    [(error(500, "x"), hangs(), "d0"), (hangs(), error(400, "x"), "p0"), (hangs(), error(500, "x"), "p0")],
    ids=["producer fails", "consumer rejects", "consumer fails"],
)
async def test_the_other_leg_is_cancelled(
    producer: Script, consumer: Script, cancelled: str, start_stack: StartStack
) -> None:
    stack = await start_stack([producer], [consumer])
    assert await stack.proxy.status("/v1/completions", json=STREAM) >= 400
    [other] = [server for server in stack.producers + stack.consumers if server.name == cancelled]
    await asyncio.wait_for(other.cancelled.wait(), PATIENCE_S)


@pytest.mark.parametrize(
    ("end", "code"),
    [
        (breaks(), "answer_broken"),
        (None, "answer_broken"),  # a clean end of the connection without [DONE] is no whole answer
        (hangs(), "deadline_passed"),
    ],
    ids=["reset", "no [DONE]", "silence"],
)
async def test_a_failure_after_the_first_chunk_is_an_event(
    end: Script | None, code: str, start_stack: StartStack
) -> None:
    half = token(" of")[:-10]
    consumer = streams(token(" city"), half, end=end)
    stack = await start_stack([hangs()], [consumer], proxy_token_timeout_s=0.2)

    async with stack.proxy.post("/v1/completions", json=STREAM) as answer:
        assert answer.status == 200
        first, last, rest = (await answer.read()).split(b"\n\n")

    assert first + b"\n\n" == token(" city")
    assert json.loads(last.removeprefix(b"data: "))["error"]["code"] == code
    assert rest == b""
    await asyncio.wait_for(stack.producers[0].cancelled.wait(), PATIENCE_S)
    await _settled(stack)
    line = f'pd_proxy_requests_total{{client="",endpoint="/v1/completions",outcome="{code}",status="200"}}'
    assert await stack.proxy.metric(line) == 1


@pytest.mark.parametrize(
    ("producer", "consumer", "body", "limit"),
    [
        (hangs(), hangs(), STREAM, "proxy_first_token_timeout_s"),
        (hangs(), hangs(), WHOLE, "proxy_first_token_timeout_s"),  # the producer's part takes no longer than that
        (prefilled(), streams(b": ping\n\n", end=hangs()), STREAM, "proxy_first_token_timeout_s"),
        (prefilled(), hangs(), WHOLE, "proxy_request_timeout_s"),
        (hangs(), hangs(), STREAM, "proxy_request_timeout_s"),
        (prefilled(), hangs(), STREAM, "proxy_request_timeout_s"),
        (hangs(), hangs(), WHOLE, "proxy_request_timeout_s"),
    ],
    ids=[
        *("stream", "whole, no prefill", "only comments", "whole, no decode"),
        *("stream, whole request", "stream, no decode, whole request", "whole, no prefill, whole request"),
    ],
)
async def test_silence_is_504(
    producer: Script, consumer: Script, body: dict[str, Any], limit: str, start_stack: StartStack
) -> None:
    stack = await start_stack([producer] * 2, [consumer] * 2, **{limit: 0.2})
    async with stack.proxy.post("/v1/completions", json=body) as answer:
        assert answer.status == 504
        assert (await answer.json())["error"]["code"] == "deadline_passed"
    assert sum(len(server.received) for server in stack.producers) == 1  # no second try: the time is gone
    await _settled(stack)


async def test_the_whole_request_has_a_deadline_too(start_stack: StartStack) -> None:
    stack = await start_stack([prefilled()], [streams(token(" city"), end=hangs())], proxy_request_timeout_s=0.2)
    async with stack.proxy.post("/v1/completions", json=STREAM) as answer:
        assert b"The request took longer than 0.2 s" in await answer.read()


@pytest.mark.parametrize(
    ("producers", "consumers", "missing"),
    [([], [ANSWER], "prefill"), ([ANSWER], [], "decode")],
    ids=["no producer", "no consumer"],
)
async def test_a_missing_role_is_503(
    producers: list[Script], consumers: list[Script], missing: str, start_stack: StartStack
) -> None:
    stack = await start_stack(producers, consumers)
    async with stack.proxy.post("/v1/completions", json=WHOLE) as answer:
        assert (answer.status, answer.headers["Retry-After"]) == (503, "5")
        assert (await answer.json())["error"]["message"] == f"No {missing} instance is available."
    async with stack.proxy.client.get(stack.proxy.url + "/ready") as answer:
        assert (answer.status, (await answer.json())["missing"]) == (503, [missing])


async def test_a_proxy_that_shuts_down_says_so(start_stack: StartStack) -> None:
    stack = await start_stack([hangs()], [hangs()])
    waiting = asyncio.create_task(stack.proxy.status("/v1/completions", json=STREAM))
    await asyncio.wait_for(stack.consumers[0].arrived.wait(), PATIENCE_S)

    stack.proxy.gateway.draining = True
    async with stack.proxy.post("/v1/completions", json=WHOLE) as answer:
        assert (answer.status, (await answer.json())["error"]["code"]) == (503, "shutting_down")

    stack.proxy.gateway.abort_all()
    assert await waiting == 503
    await _settled(stack)
