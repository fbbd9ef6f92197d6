"""Clients that leave at any moment, or read slowly: both legs are settled, nothing piles up."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from aiohttp import web

from tests.unit.proxy.conftest import PATIENCE_S, Stack, StartStack, eventually
from tests.unit.proxy.scripted import DONE, MODEL, Script, hangs, prefilled, streams, token

STREAM = {"model": MODEL, "prompt": "San Francisco is a", "stream": True}
WHOLE = {"model": MODEL, "prompt": "San Francisco is a"}
MEBIBYTE = 1 << 20


def head(length: int) -> bytes:
    lines = "POST /v1/completions HTTP/1.1", "Host: x", "Content-Type: application/json", f"Content-Length: {length}"
    return "\r\n".join((*lines, "", "")).encode()


@asynccontextmanager
async def raw_client(stack: Stack, body: dict[str, object]) -> AsyncIterator[asyncio.StreamReader]:
    """A client that has sent its request; leaving the context closes its socket."""
    host, port = stack.proxy.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    content = json.dumps(body).encode()
    writer.write(head(len(content)) + content)
    try:
        yield reader
    finally:
        writer.transport.abort()


async def settled(stack: Stack, status: int) -> None:
    await eventually(lambda: not stack.proxy.gateway.being_served)
    fleet = stack.proxy.gateway.fleet
    await eventually(lambda: fleet.outstanding("p0") == fleet.outstanding("d0") == 0)
    line = f'pd_proxy_requests_total{{client="",endpoint="/v1/completions",outcome="client_left",status="{status}"}}'
    assert await stack.proxy.metric(line) == 1


@pytest.mark.parametrize("body", [STREAM, WHOLE], ids=["stream", "whole"])
@pytest.mark.parametrize("consumer", [hangs(), streams(end=hangs())], ids=["no answer yet", "headers"])
async def test_a_client_that_leaves_before_the_first_chunk(
    body: dict[str, object], consumer: Script, start_stack: StartStack
) -> None:
    stack = await start_stack([hangs()], [consumer])
    async with raw_client(stack, body):
        for server in (stack.producers[0], stack.consumers[0]):
            await asyncio.wait_for(server.arrived.wait(), PATIENCE_S)
    for server in (stack.producers[0], stack.consumers[0]):
        await asyncio.wait_for(server.cancelled.wait(), PATIENCE_S)
    await settled(stack, 499)


async def test_a_client_with_a_long_prompt_that_leaves(start_stack: StartStack) -> None:
    stack = await start_stack([hangs()], [hangs()])
    host, port = stack.proxy.url.removeprefix("http://").split(":")
    _, writer = await asyncio.open_connection(host, int(port))
    content = json.dumps(STREAM | {"prompt": "word " * 40_000}).encode()  # more than uvicorn reads ahead
    writer.write(head(len(content)))
    await eventually(lambda: len(stack.proxy.gateway.being_served) == 1)  # it waits for the body
    writer.write(content)
    for server in (stack.producers[0], stack.consumers[0]):
        await asyncio.wait_for(server.arrived.wait(), PATIENCE_S)
    writer.transport.abort()
    for server in (stack.producers[0], stack.consumers[0]):
        await asyncio.wait_for(server.cancelled.wait(), PATIENCE_S)
    await settled(stack, 499)


async def test_a_client_that_leaves_in_the_middle_of_its_stream(start_stack: StartStack) -> None:
    stack = await start_stack([hangs()], [streams(token(" city"), end=hangs())])
    async with raw_client(stack, STREAM) as reader:
        assert b"200" in await reader.readline()
        await asyncio.wait_for(reader.readuntil(b"city"), PATIENCE_S)
    for server in (stack.producers[0], stack.consumers[0]):
        await asyncio.wait_for(server.cancelled.wait(), PATIENCE_S)
    await settled(stack, 200)


async def test_a_client_that_leaves_in_the_middle_of_its_body(start_stack: StartStack) -> None:
    stack = await start_stack([prefilled()], [prefilled()])
    host, port = stack.proxy.url.removeprefix("http://").split(":")
    _, writer = await asyncio.open_connection(host, int(port))
    writer.write(head(1000) + b"{")
    await eventually(lambda: len(stack.proxy.gateway.being_served) == 1)
    writer.transport.abort()
    await settled(stack, 499)
    assert stack.producers[0].received == []


async def test_a_client_that_does_not_finish_its_body(start_stack: StartStack) -> None:
    stack = await start_stack([prefilled()], [prefilled()])
    stack.proxy.app.config["BODY_TIMEOUT"] = 0.2
    host, port = stack.proxy.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(head(1000) + b"{")
    answer = await asyncio.wait_for(reader.read(), PATIENCE_S)  # up to the end: the connection is closed
    assert answer.startswith(b"HTTP/1.1 408")
    assert b'"code": "request_timeout"' in answer
    writer.close()
    await eventually(lambda: not stack.proxy.gateway.being_served)


class Flood:
    """A consumer that writes events as fast as they are taken, up to `limit` bytes; `written` is how far it got."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.written = 0

    async def __call__(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        event = token("x" * 60_000)
        while self.written < self._limit:
            await response.write(event)
            self.written += len(event)
        await response.write(DONE)
        return response


async def stalled(stack: Stack, flood: Flood) -> int:
    """How far the flood got when it makes no more progress while the proxy answers other requests."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            before = flood.written
            for _ in range(50):
                async with stack.proxy.client.get(stack.proxy.url + "/health") as answer:
                    await answer.read()
            if 0 < flood.written == before:
                return before


async def test_a_slow_reader_holds_the_consumer_back(start_stack: StartStack) -> None:
    flood = Flood(64 * MEBIBYTE)
    stack = await start_stack([prefilled()], [flood])
    async with raw_client(stack, STREAM) as reader:
        assert await stalled(stack, flood) < 32 * MEBIBYTE  # what sockets buffer, not what memory holds
        received = 0
        while chunk := await asyncio.wait_for(reader.read(MEBIBYTE), PATIENCE_S):
            received += len(chunk)
            if chunk.endswith(b"0\r\n\r\n"):
                break
        assert received > flood.written >= 64 * MEBIBYTE


async def test_a_client_that_never_reads_is_left_at_the_deadline(start_stack: StartStack) -> None:
    flood = Flood(1024 * MEBIBYTE)
    stack = await start_stack([hangs()], [flood], proxy_request_timeout_s=1.0)
    async with raw_client(stack, STREAM):
        for server in (stack.producers[0], stack.consumers[0]):
            await asyncio.wait_for(server.cancelled.wait(), PATIENCE_S)
        await eventually(lambda: not stack.proxy.gateway.being_served)
        name = 'pd_proxy_requests_total{client="",endpoint="/v1/completions",outcome="deadline_passed",status="200"}'
        assert await stack.proxy.metric(name) == 1


async def test_a_client_that_leaves_while_it_is_not_reading(start_stack: StartStack) -> None:
    flood = Flood(1024 * MEBIBYTE)
    stack = await start_stack([hangs()], [flood])
    async with raw_client(stack, STREAM):
        await stalled(stack, flood)
    for server in (stack.producers[0], stack.consumers[0]):
        await asyncio.wait_for(server.cancelled.wait(), PATIENCE_S)
    await settled(stack, 200)
