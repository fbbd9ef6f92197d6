"""Heads that are too slow, too large or none: each client is told so and cut off, the others are served."""

import asyncio
from contextlib import suppress

import pytest

from tests.unit.proxy.conftest import PATIENCE_S
from tests.unit.proxy.connection.by_hand import (
    GIBIBYTE,
    HEALTH,
    MEBIBYTE,
    PIECE,
    Client,
    StartServer,
    post,
    refusal,
    refused_so_far,
)

pytestmark = pytest.mark.timeout(60)


async def test_a_slow_head(start_server: StartServer) -> None:
    server = await start_server(proxy_head_timeout_s=0.3)
    slow = await server.connect()
    refused = refused_so_far("request_timeout")
    await slow.send(b"GET /health HTTP/1.1\r\nHo")
    assert await server.serves_others()
    assert await refusal(slow) == (408, "request_timeout")
    assert await slow.is_cut_off()
    assert refused_so_far("request_timeout") == refused + 1


async def test_a_slow_head_after_an_answer(start_server: StartServer) -> None:
    server = await start_server(proxy_head_timeout_s=0.3)
    slow = await server.connect()
    await slow.send(HEALTH)
    assert (await slow.answer()).status == 200
    await slow.send(HEALTH[:10])
    assert await refusal(slow) == (408, "request_timeout")


async def test_a_head_byte_by_byte_is_read(start_server: StartServer) -> None:
    server = await start_server()
    client = await server.connect()
    await client.send(*(bytes([byte]) for byte in HEALTH))
    assert (await client.answer()).status == 200


async def test_silence_and_empty_lines_end_like_a_slow_head(start_server: StartServer) -> None:
    server = await start_server(proxy_head_timeout_s=0.3)
    silent, chatty, kept = await server.connect(), await server.connect(), await server.connect()
    await kept.send(HEALTH)
    await kept.answer()
    lines = asyncio.create_task(_empty_lines(chatty, kept))
    assert await server.serves_others()
    for client in (silent, chatty, kept):
        assert await client.is_cut_off()
    await lines


async def _empty_lines(*clients: Client) -> None:
    with suppress(ConnectionError):
        async with asyncio.timeout(PATIENCE_S):
            while True:
                for client in clients:
                    await client.send(b"\r\n")
                await asyncio.sleep(0.01)


async def test_an_idle_connection(start_server: StartServer) -> None:
    server = await start_server(proxy_idle_timeout_s=1)
    idle = await server.connect()
    await idle.send(HEALTH)
    assert (await idle.answer()).status == 200
    assert await idle.is_cut_off()
    assert await server.serves_others()


@pytest.mark.parametrize(
    ("begin", "piece"),
    [
        (b"GET /", b"x" * 4096),
        (b"GET / HTTP/1.1\r\nHost: x\r\nX: ", b"x" * 4096),
        (b"GET / HTTP/1.1\r\nHost: x\r\n", b"X: x\r\n" * 100),
        (post("/wait", "Transfer-Encoding: chunked") + b"1;x=", b"x" * 4096),
        (post("/wait", "Transfer-Encoding: chunked") + b"0\r\nX: ", b"x" * 4096),
        (post("/wait", "Transfer-Encoding: chunked") + b"0\r\n", b"X: x\r\n" * 100),
    ],
    ids=["URL", "header", "headers", "chunk extension", "trailer", "trailers"],
)
async def test_a_head_without_end(begin: bytes, piece: bytes, start_server: StartServer) -> None:
    server = await start_server()
    client = await server.connect()
    await client.send(begin)
    sending = asyncio.create_task(client.sends_until_cut_off(piece, GIBIBYTE))
    assert await refusal(client) == (431, "headers_too_large")
    assert await client.is_cut_off()
    assert await sending < 16 * MEBIBYTE  # what the kernel's buffers take
    assert await server.serves_others()


@pytest.mark.parametrize(("given", "taken"), [("mine-1", True), ("x" * 129, False), ("\xff", False)])
async def test_a_refusal_has_the_requests_id(given: str, taken: bool, start_server: StartServer) -> None:
    server = await start_server()
    client = await server.connect()
    head = post("/wait", "Transfer-Encoding: chunked", f"X-Request-Id: {given}")
    await client.send(head + b"1;x=")
    sending = asyncio.create_task(client.sends_until_cut_off(b"x" * 4096, GIBIBYTE))
    answer = await client.answer()
    await sending
    assert (answer.status, answer.code) == (431, "headers_too_large")
    assert (answer.headers["x-request-id"] == given) is taken
    assert taken or len(answer.headers["x-request-id"]) == 32


@pytest.mark.parametrize("head", [b"GET /" + PIECE, b"GET / HTTP/1.1\r\nX: " + PIECE, HEALTH[:-2] + b"X: y\r\n" * 4096])
async def test_a_large_head_at_once(head: bytes, start_server: StartServer) -> None:
    server = await start_server()
    client = await server.connect()
    await client.send(head + b"\r\n\r\n")
    assert await refusal(client) == (431, "headers_too_large")


@pytest.mark.parametrize(
    "data", [b"\x16\x03\x01\x02\x00\x01", b"hello\r\n\r\n", b"GET / HTTP/9\r\n\r\n", b"CONNECT x:1 HTTP/1.1\r\n\r\n"]
)
async def test_what_is_not_http(data: bytes, start_server: StartServer) -> None:
    server = await start_server()
    client = await server.connect()
    await client.send(data)
    assert await refusal(client) == (400, "invalid_request")
