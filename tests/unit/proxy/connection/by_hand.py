"""A whole proxy, and clients by hand that send it any bytes."""

import asyncio
import json
import socket
import threading
from asyncio import StreamReader, StreamWriter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import psutil
import uvicorn
from quart import Response, request

from proxy.app import create_app
from proxy.connection.refusal import REFUSED
from proxy.routing.fleet import View
from proxy.server import uvicorn_config
from proxy.settings import ProxySettings
from tests.unit.proxy.conftest import PATIENCE_S, GivenView

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
