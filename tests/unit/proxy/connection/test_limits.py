"""How many connections there are, which of them makes room, and how many requests one of them may send ahead."""

import json

import pytest

from tests.unit.proxy.conftest import eventually
from tests.unit.proxy.connection.by_hand import HEALTH, MEBIBYTE, StartServer, post, refusal, resident_bytes

pytestmark = pytest.mark.timeout(60)


async def test_hundreds_of_half_heads_make_room(start_server: StartServer) -> None:
    server = await start_server(proxy_max_connections=50)
    before = resident_bytes()
    halves = [await server.connect() for _ in range(400)]
    for half in halves:
        await half.sends_until_cut_off(HEALTH[:20], 1)
    for _ in range(10):
        assert await server.serves_others()
    assert await halves[0].is_cut_off()
    assert resident_bytes() - before < 16 * MEBIBYTE


async def test_when_all_connections_are_being_served_the_next_is_told_so(start_server: StartServer) -> None:
    server = await start_server(proxy_max_connections=3)
    served = [await server.connect() for _ in range(3)]
    for client in served:
        await client.send(post("/wait", "Content-Length: 2") + b"{}")
    await eventually(lambda: len(server.arrived) == 3)
    late = await server.connect()
    assert await refusal(late) == (503, "too_many_connections")
    server.waiting.set()
    for client in served:
        assert (await client.answer()).status == 200
    assert await server.serves_others()


async def test_the_connection_that_was_idle_for_longest_makes_room(start_server: StartServer) -> None:
    server = await start_server(proxy_max_connections=3)
    clients = [await server.connect() for _ in range(3)]
    for client in (clients[1], clients[0], clients[2], clients[1]):
        await client.send(HEALTH)
        await client.answer()
    assert await server.serves_others()
    assert await clients[0].is_cut_off()
    for client in clients[1:]:
        await client.send(HEALTH)
        assert (await client.answer()).status == 200


async def test_one_request_may_be_sent_ahead(start_server: StartServer) -> None:
    server = await start_server()
    client = await server.connect()
    await client.send(post("/wait", "Content-Length: 2") + b"{}" + post("/wait", "Content-Length: 2") + b"{")
    server.waiting.set()
    assert (await client.answer()).body == b"waited"
    await client.send(b"}")
    assert (await client.answer()).body == b"waited"
    await client.send(HEALTH)
    assert (await client.answer()).status == 200


async def test_after_more_the_connection_ends_with_the_second_answer(start_server: StartServer) -> None:
    server = await start_server()
    client = await server.connect()
    await client.send((post("/wait", "Content-Length: 2") + b"{}") * 1000)
    server.waiting.set()
    assert [(await client.answer()).body for _ in range(2)] == [b"waited"] * 2
    assert await client.is_cut_off()


@pytest.mark.parametrize("split", [0, 1, 60])
async def test_a_request_that_asks_for_an_upgrade_keeps_its_body(split: int, start_server: StartServer) -> None:
    server = await start_server()
    client = await server.connect()
    upgrade = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAEAAEAAAAIAAAAB")
    body = b'{"prompt": "x", "model": 5}'
    request = post("/v1/completions", f"Content-Length: {len(body)}", *upgrade) + body
    for _ in range(2):
        await client.send(request[:split])
        await client.send(request[split:])
        answer = await client.answer()
        assert json.loads(answer.body)["error"]["param"] == "model"
