"""Bodies that are too large or too slow, alone or together: refused, the others are served, nothing piles up."""

import asyncio
from itertools import islice

import pytest

from tests.unit.proxy.connection.by_hand import (
    GIBIBYTE,
    MEBIBYTE,
    PIECE,
    StartServer,
    chunk,
    post,
    refusal,
    resident_bytes,
)

pytestmark = pytest.mark.timeout(60)


@pytest.mark.parametrize(
    ("path", "header", "status"),
    [
        ("/v1/completions", f"Content-Length: {GIBIBYTE}", 413),
        ("/v1/completions", "Transfer-Encoding: chunked", 413),
        ("/unknown", f"Content-Length: {GIBIBYTE}", 404),
        ("/unknown", "Transfer-Encoding: chunked", 404),
    ],
)
async def test_a_body_of_a_gibibyte(path: str, header: str, status: int, start_server: StartServer) -> None:
    server = await start_server()
    before = resident_bytes()
    client = await server.connect()
    await client.send(post(path, header))
    piece = chunk(PIECE) if "chunked" in header else PIECE
    sending = asyncio.create_task(client.sends_until_cut_off(piece, GIBIBYTE))
    assert (await client.answer()).status == status
    assert await server.serves_others()
    assert await client.is_cut_off()
    assert await sending < 32 * MEBIBYTE  # what the kernel's buffers take, and the body up to its bound
    assert resident_bytes() - before < 16 * MEBIBYTE


@pytest.mark.parametrize("header", ["Content-Length: 1000", "Transfer-Encoding: chunked"])
async def test_a_slow_body(header: str, start_server: StartServer) -> None:
    server = await start_server(proxy_body_timeout_s=0.3)
    client = await server.connect()
    await client.send(post("/v1/completions", header) + chunk(b"{"))
    assert await server.serves_others()
    answer = await client.answer()
    assert (answer.status, answer.code) == (408, "request_timeout")
    assert await client.is_cut_off()


async def test_half_bodies_do_not_pile_up(start_server: StartServer) -> None:
    server = await start_server(proxy_max_body_bytes=8 * MEBIBYTE, proxy_max_buffered_bytes=16 * MEBIBYTE)
    before = resident_bytes()
    halves = [await server.connect() for _ in range(50)]
    for half in halves:
        await half.send(post("/v1/completions", f"Content-Length: {8 * MEBIBYTE}"))
        await half.sends_until_cut_off(PIECE, 6 * MEBIBYTE)
    answers = [asyncio.create_task(refusal(half)) for half in halves]
    for answer in islice(asyncio.as_completed(answers), len(halves) - 16 // 6):
        assert await answer == (429, "overloaded")
    assert await server.serves_others()
    grown = resident_bytes() - before
    for task in answers:
        task.cancel()
    assert grown < 100 * MEBIBYTE  # of 300


async def test_bodies_that_were_served_make_room_for_others(start_server: StartServer) -> None:
    server = await start_server(proxy_max_buffered_bytes=MEBIBYTE)
    client = await server.connect()
    for _ in range(20):
        await client.send(post("/v1/completions", "Content-Length: 500000") + b"x" * 500_000)
        assert (await client.answer()).status == 400
