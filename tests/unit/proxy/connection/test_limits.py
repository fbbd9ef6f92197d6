"""Clients that send too much, too slowly or only in part: each is cut off, the others are served, nothing piles up."""

import asyncio
import json
import resource
import socket
import threading
from asyncio import StreamReader, StreamWriter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import psutil
import pytest
import uvicorn
from quart import Response, request

from proxy.app import create_app
from proxy.connection.limits import REFUSED
from proxy.connection.socket_limits import OWN_FILES, SocketLimits, within_open_files
from proxy.routing.fleet import View
from proxy.server import uvicorn_config
from proxy.settings import ProxySettings
from stack.environment import load
from tests.unit.proxy.conftest import PATIENCE_S, GivenView, eventually

pytestmark = pytest.mark.timeout(60)

MEBIBYTE = 1024 * 1024
GIBIBYTE = 1024 * MEBIBYTE
DEFAULTS = {
    "proxy_max_head_bytes": 8192,
    "proxy_max_body_bytes": MEBIBYTE,
    "proxy_max_buffered_bytes": 8 * MEBIBYTE,
}
HEALTH = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"
PIECE = b"x" * 65536


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def code(self) -> str:
        error = json.loads(self.body)["error"]
        assert self.headers["content-type"] == "application/json"
        assert set(error) == {"message", "type", "param", "code"}
        return str(error["code"])


class Client:
    """A client by hand: sends any bytes."""

    def __init__(self, reader: StreamReader, writer: StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def send(self, *pieces: bytes) -> None:
        for piece in pieces:
            self._writer.write(piece)
            await self._writer.drain()

    async def sends_until_cut_off(self, piece: bytes, most: int) -> int:
        """How many bytes went out before the server refused more."""
        sent = 0
        try:
            while sent < most:
                async with asyncio.timeout(PATIENCE_S):
                    await self.send(piece)
                    await asyncio.sleep(0)  # the answer is read meanwhile
                sent += len(piece)
        except ConnectionError:
            pass
        return sent

    async def answer(self) -> Answer:
        async with asyncio.timeout(PATIENCE_S):
            head = (await self._reader.readuntil(b"\r\n\r\n")).decode()
            status, *lines = head.rstrip().split("\r\n")
            headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
            body = await self._reader.readexactly(int(headers["content-length"]))
        return Answer(int(status.split()[1]), headers, body)

    async def is_cut_off(self) -> bool:
        """Waits for the end of the connection; whether nothing more came before it."""
        try:
            async with asyncio.timeout(PATIENCE_S):
                return await self._reader.read() == b""
        except ConnectionError:
            return True

    async def close(self) -> None:
        self._writer.close()
        await asyncio.gather(self._writer.wait_closed(), return_exceptions=True)


@dataclass
class Server:
    port: int
    waiting: threading.Event
    arrived: list[str] = field(default_factory=list)
    clients: list[Client] = field(default_factory=list)

    async def connect(self) -> Client:
        client = Client(*await asyncio.open_connection("127.0.0.1", self.port))
        self.clients.append(client)
        return client

    async def serves_others(self) -> bool:
        client = await self.connect()
        await client.send(HEALTH)
        status = (await client.answer()).status
        await client.close()
        return status == 200


StartServer = Callable[..., Awaitable[Server]]


@asynccontextmanager
async def running_server(settings: ProxySettings) -> AsyncIterator[Server]:
    app = create_app(settings, lambda _, publish: GivenView(View(), publish))
    waiting = threading.Event()

    @app.post("/wait")
    async def wait() -> Response:
        await request.get_data()
        server.arrived.append(request.path)
        await asyncio.to_thread(waiting.wait)
        return Response(b"waited")

    listener = socket.create_server(("127.0.0.1", 0))
    server = Server(listener.getsockname()[1], waiting)
    config = uvicorn_config(app, settings)
    config.timeout_graceful_shutdown = 0
    uvicorns = uvicorn.Server(config)
    serving = asyncio.create_task(asyncio.to_thread(uvicorns.run, [listener]))  # with uvloop, as deployed
    try:
        assert await server.serves_others()  # the socket listens already: this waits for the start
        yield server
    finally:
        waiting.set()
        await asyncio.gather(*(client.close() for client in server.clients))
        uvicorns.should_exit = True
        async with asyncio.timeout(PATIENCE_S):
            await serving


@pytest.fixture
async def start_server() -> AsyncIterator[StartServer]:
    """`await start_server(proxy_…=…)`: the whole proxy without instances, and `POST /wait`."""
    async with AsyncExitStack() as stack:

        async def start(**settings: Any) -> Server:
            return await stack.enter_async_context(running_server(load(ProxySettings, **(DEFAULTS | settings))))

        yield start


async def refusal(client: Client) -> tuple[int, str]:
    """The status and the code of what the server says last."""
    answer = await client.answer()
    assert answer.headers["connection"] == "close"
    assert answer.headers["x-request-id"]
    return answer.status, answer.code


def refused_so_far(code: str) -> float:
    [family] = REFUSED.collect()
    return sum(
        sample.value for sample in family.samples if sample.labels.get("code") == code and "total" in sample.name
    )


def resident_bytes() -> int:
    return int(psutil.Process().memory_info().rss)


JSON = "Content-Type: application/json"


def post(path: str, *headers: str) -> bytes:
    return "\r\n".join((f"POST {path} HTTP/1.1", "Host: x", JSON, *headers, "", "")).encode()


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


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


INFINITE = resource.RLIM_INFINITY


@pytest.mark.parametrize(
    ("running", "soft", "hard", "raised_to", "connections"),
    [
        (50, OWN_FILES + 200, INFINITE, None, 100),
        (50, 64, INFINITE, OWN_FILES + 200, 100),
        (50, 64, OWN_FILES + 200, OWN_FILES + 200, 100),
        (5000, 64, OWN_FILES + 300, OWN_FILES + 300, 100),
        (50, 64, OWN_FILES + 199, OWN_FILES + 199, 66),
        (50, OWN_FILES + 90, OWN_FILES + 90, None, 30),
        (50, 10, 10, None, 1),
        (50, INFINITE, INFINITE, None, 100),
    ],
)
def test_connections_have_files(
    running: int, soft: int, hard: int, raised_to: int | None, connections: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [(soft, hard)]
    monkeypatch.setattr(resource, "getrlimit", lambda _: now[-1])
    monkeypatch.setattr(resource, "setrlimit", lambda _, bound: now.append(bound))
    limits = within_open_files(SocketLimits(100, 8192, 1.0, MEBIBYTE), running)
    assert limits.connections == connections
    assert now[1:] == ([] if raised_to is None else [(raised_to, hard)])
