"""What both legs get of a body that came compressed, in another encoding, or under a name of its own."""

import gzip
import json
import zlib
from typing import Any

import pytest
from backports import zstd

from proxy.routing.fleet import View
from stack.instances.record import Adapter
from tests.unit.proxy.conftest import Stack, StartStack, running_proxy
from tests.unit.proxy.scripted import DONE, MODEL, instance, prefilled, replies, streams, token

COMPLETION = {"id": "cmpl-1", "choices": [{"text": " city"}]}
BODY: dict[str, Any] = {"model": MODEL, "prompt": "San Francisco is a", "max_tokens": 7}
RAW = json.dumps(BODY).encode()
MEBIBYTE = 1 << 20


async def pair(start_stack: StartStack, **settings: Any) -> Stack:
    return await start_stack([prefilled()], [replies(200, COMPLETION)], **settings)


@pytest.mark.parametrize(
    ("coding", "compressed"),
    [("gzip", gzip.compress(RAW)), ("deflate", zlib.compress(RAW)), ("zstd", zstd.compress(RAW)), ("identity", RAW)],
    ids=["gzip", "deflate", "zstd", "identity"],
)
async def test_legs_get_the_plain_body(coding: str, compressed: bytes, start_stack: StartStack) -> None:
    stack = await pair(start_stack)
    headers = {"Content-Encoding": coding}
    assert await stack.proxy.status("/v1/completions", data=compressed, headers=headers) == 200
    prefill, decode = stack.producers[0].received[0], stack.consumers[0].received[0]
    assert prefill.raw.startswith(RAW[:-1])
    assert decode.raw.startswith(RAW[:-1])
    assert "Content-Encoding" not in [*prefill.headers, *decode.headers]


@pytest.mark.parametrize(
    ("coding", "compressed", "status", "said"),
    [
        ("br", RAW, 415, "Content-Encoding: 'br': expected gzip, deflate, zstd or identity."),
        ("gzip", RAW, 400, "The body is not valid gzip"),
        ("zstd", zstd.compress(RAW)[:-3], 400, "The body ends in the middle of its zstd data."),
        ("gzip", gzip.compress(bytes(2 * MEBIBYTE)), 413, f"The body is larger than {MEBIBYTE} bytes."),
        ("zstd", zstd.compress(bytes(2 * MEBIBYTE)), 413, f"The body is larger than {MEBIBYTE} bytes."),
    ],
    ids=["unknown", "no gzip", "cut off", "too large in gzip", "too large in zstd"],
)
async def test_what_cannot_be_read_is_refused(
    coding: str, compressed: bytes, status: int, said: str, start_stack: StartStack
) -> None:
    stack = await pair(start_stack, proxy_max_body_bytes=MEBIBYTE)
    headers = {"Content-Encoding": coding}
    async with stack.proxy.post("/v1/completions", data=compressed, headers=headers) as answer:
        assert answer.status == status
        assert (await answer.json())["error"]["message"].startswith(said)
        assert answer.headers.get("Accept-Encoding") == ("gzip, deflate, zstd" if status == 415 else None)
    assert stack.producers[0].received == stack.consumers[0].received == []


async def test_what_bodies_become_counts_among_all_bodies_until_they_are_answered(start_stack: StartStack) -> None:
    stack = await pair(start_stack, proxy_max_body_bytes=4 * MEBIBYTE, proxy_max_buffered_bytes=4 * MEBIBYTE)
    padded = zstd.compress(RAW + 3 * MEBIBYTE * b" ")
    for _ in range(3):
        assert await stack.proxy.status("/v1/completions", data=padded, headers={"Content-Encoding": "zstd"}) == 200
    larger = zstd.compress(RAW + (4 * MEBIBYTE - len(RAW)) * b" ")  # with what it came in it is too much
    assert await stack.proxy.status("/v1/completions", data=larger, headers={"Content-Encoding": "zstd"}) == 429
    assert await stack.proxy.status("/v1/completions", data=padded, headers={"Content-Encoding": "zstd"}) == 200


@pytest.mark.parametrize(
    ("path", "given", "header", "shown", "passed_on"),
    [
        ("/v1/completions", "my-trace-1", None, "my-trace-1", "my-trace-1"),
        ("/v1/chat/completions", "my-trace-1", None, "my-trace-1", "my-trace-1"),
        ("/v1/responses", "resp_1", None, "resp_1", "resp_1"),
        ("/v1/completions", "my-trace-1", "wins", "wins", "wins"),
        ("/v1/completions", "my-trace-1", "x" * 500, "my-trace-1", "my-trace-1"),
        # vLLM finds these in the body, if no header is in the way; in a header they would be another one, or none.
        ("/v1/completions", "a\r\nX-Injected: 1", None, ..., None),
        ("/v1/completions", "x" * 500, None, ..., None),
        ("/v1/completions", "请求", None, ..., None),
        ("/v1/completions", "", None, ..., None),
        # No ids: vLLM refuses the first two, and knows no such field on this path.
        ("/v1/completions", 5, None, ..., ...),
        ("/v1/completions", None, None, ..., ...),
        ("/v1/messages", "my-trace-1", None, ..., ...),
    ],
)
async def test_request_id(
    path: str, given: Any, header: str | None, shown: Any, passed_on: Any, start_stack: StartStack
) -> None:
    """`...`: one that the proxy made."""
    stack = await pair(start_stack)
    headers = {} if header is None else {"X-Request-Id": header}
    body = BODY | {"messages": [], "input": "x", "request_id": given}
    async with stack.proxy.post(path, json=body, headers=headers) as answer:
        assert answer.status == 200
        found = answer.headers["X-Request-Id"]
        assert "X-Injected" not in answer.headers
    made = found if len(found) == 32 else None
    assert found == (made if shown is ... else shown)
    for leg in (stack.producers[0].received[0], stack.consumers[0].received[0]):
        assert leg.headers.get("X-Request-Id") == (made if passed_on is ... else passed_on)
        assert leg.body["request_id"] == given


async def test_the_request_id_of_the_body_is_that_of_its_error_and_of_its_streams_last_word(
    start_stack: StartStack,
) -> None:
    stack = await start_stack([prefilled()], [streams(token(" city"), DONE)])
    async with stack.proxy.post("/v1/completions", json=BODY | {"request_id": "mine", "stream": True}) as answer:
        assert answer.headers["X-Request-Id"] == "mine"
        assert b'"request_id":"mine"' in (await answer.read()).rpartition(b": pd ")[2]
    async with stack.proxy.post("/v1/completions", json=BODY | {"request_id": "mine-2", "model": "x"}) as answer:
        assert (answer.status, answer.headers["X-Request-Id"]) == (404, "mine-2")


@pytest.mark.parametrize(
    "path", ["/v1/completions", "/v1/chat/completions", "/v1/responses", "/v1/messages", "/tokenize"]
)
@pytest.mark.parametrize("given", [{}, {"model": None}, {"model": ""}])
async def test_without_a_model_the_only_one_answers(path: str, given: dict[str, Any], start_stack: StartStack) -> None:
    stack = await pair(start_stack)
    body = {"prompt": "x", "messages": [], "input": "x"} | given
    assert await stack.proxy.status(path, json=body) == 200
    assert stack.consumers[0].received[0].body.get("model") == given.get("model")


ADAPTER = Adapter(id="adapter", root="/adapter", parent=MODEL)


@pytest.mark.parametrize(
    ("served", "status", "said"),
    [
        ([(MODEL, "alias"), (MODEL, "alias")], 502, None),  # there, though nothing listens
        ([(MODEL, "adapter"), (MODEL,)], 502, None),
        ([(MODEL,), ("other",)], 400, f"Missing required parameter: 'model'. There are several: {MODEL}, other."),
        ([], 503, "No prefill and no decode instance is available."),
    ],
)
async def test_without_a_model_it_depends_on_how_many_there_are(
    served: list[tuple[str, ...]], status: int, said: str | None
) -> None:
    instances = tuple(
        instance("aggregated", f"a{number}", served_models=names, adapters=(ADAPTER,) if "adapter" in names else ())
        for number, names in enumerate(served)
    )
    async with running_proxy(View(instances, revision=1)) as proxy:
        async with proxy.post("/v1/completions", json={"prompt": "x"}) as answer:
            shown = (await answer.json())["error"]
        assert answer.status == status, shown
        if said is not None:
            assert shown["message"] == said
        assert shown["param"] == ("model" if status == 400 else None)
