"""A client that ends its side of the connection after its request wants the answer; one that has left does not."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from tests.unit.proxy.conftest import PATIENCE_S, RunningProxy, StartStack, eventually, without_comment
from tests.unit.proxy.http.raw import connected, get, post, split
from tests.unit.proxy.scripted import DONE, MODEL, hangs, prefilled, replies, streams, token

WHOLE = {"model": MODEL, "prompt": "San Francisco is a"}
STREAM = WHOLE | {"stream": True}
SIGN = b": alive\n\n"
LONGER_THAN_ALL_EARLY_PROBES_S = 0.3


async def half_closed(proxy: RunningProxy, request: bytes) -> tuple[bytes, dict[str, str], bytes]:
    """The answer to who says with the request that it will send no more."""
    reader, writer = await connected(proxy)
    try:
        writer.write(request)
        writer.write_eof()
        return split(await asyncio.wait_for(reader.read(), PATIENCE_S))
    finally:
        writer.close()


def dechunked(body: bytes) -> bytes:
    pieces = b""
    while body:
        size, _, rest = body.partition(b"\r\n")
        pieces += rest[: int(size, 16)]
        body = rest[int(size, 16) + 2 :]
    return pieces


@pytest.mark.parametrize("delay_s", [0, LONGER_THAN_ALL_EARLY_PROBES_S])
@pytest.mark.parametrize("version", ["1.1", "1.0"])
@pytest.mark.parametrize("asked", [(), ("Expect: 100-continue",)])
async def test_a_whole_answer(delay_s: float, version: str, asked: tuple[str, ...], start_stack: StartStack) -> None:
    goes_on = asyncio.Event()
    stack = await start_stack([prefilled()], [hangs(goes_on, replies(200, {"choices": [{"text": " city"}]}))])
    asyncio.get_running_loop().call_later(delay_s, goes_on.set)
    answer = await half_closed(stack.proxy, post(WHOLE, *asked, version=version))
    if answer[0] == b"HTTP/1.1 100 Continue":
        assert (version, asked) == ("1.1", ("Expect: 100-continue",))
        answer = split(answer[2])
    status, headers, body = answer
    assert (status, headers["connection"]) == (b"HTTP/1.1 200 OK", "close")
    assert body == b'{"choices": [{"text": " city"}]}'
    assert int(headers["content-length"]) == len(body)


@pytest.mark.parametrize("delay_s", [0, LONGER_THAN_ALL_EARLY_PROBES_S])
@pytest.mark.parametrize("version", ["1.1", "1.0"])
async def test_a_stream(delay_s: float, version: str, start_stack: StartStack) -> None:
    first, second = asyncio.Event(), asyncio.Event()
    stack = await start_stack([prefilled()], [hangs(first, streams(token(" city"), second, token(" of"), DONE))])
    asyncio.get_running_loop().call_later(delay_s, first.set)
    asyncio.get_running_loop().call_later(2 * delay_s, second.set)
    status, headers, body = await half_closed(stack.proxy, post(STREAM, version=version))
    assert status == b"HTTP/1.1 200 OK"
    assert headers["x-pd-consumer"] == "d0"
    events = dechunked(body) if version == "1.1" else body
    assert without_comment(events).replace(SIGN, b"") == token(" city") + token(" of") + DONE


async def test_what_the_proxy_says_by_itself(start_stack: StartStack) -> None:
    stack = await start_stack([prefilled()], [prefilled()])
    assert (await half_closed(stack.proxy, get("/health")))[2] == b'{"status":"alive"}\n'
    assert (await half_closed(stack.proxy, post(WHOLE | {"model": "other"})))[0] == b"HTTP/1.1 404 Not Found"


async def test_both_of_two_requests(start_stack: StartStack) -> None:
    goes_on = asyncio.Event()
    stack = await start_stack([prefilled()], [hangs(goes_on, replies(200, {"choices": [{"text": " city"}]}))])
    asyncio.get_running_loop().call_later(LONGER_THAN_ALL_EARLY_PROBES_S, goes_on.set)
    _, _, rest = await half_closed(stack.proxy, post(WHOLE) + get("/health"))
    assert rest.startswith(b'{"choices": [{"text": " city"}]}HTTP/1.1 200 OK\r\n')
    assert rest.endswith(b'{"status":"alive"}\n')


@pytest.mark.parametrize("begun", [b"", b"GET /hea", post(WHOLE)[:-3]], ids=["nothing", "a head", "a body"])
async def test_who_has_not_finished_its_request_has_left(begun: bytes, start_stack: StartStack) -> None:
    stack = await start_stack([prefilled()], [prefilled()])
    reader, writer = await connected(stack.proxy)
    writer.write(begun)
    writer.write_eof()
    assert await asyncio.wait_for(reader.read(), PATIENCE_S) == b""
    await eventually(lambda: not stack.proxy.gateway.being_served)
    writer.close()


async def test_an_idle_connection_is_closed(start_stack: StartStack) -> None:
    stack = await start_stack([prefilled()], [prefilled()])
    reader, writer = await connected(stack.proxy)
    writer.write(get("/health"))
    await asyncio.wait_for(reader.readuntil(b"alive"), PATIENCE_S)
    writer.write_eof()
    await asyncio.wait_for(reader.read(), PATIENCE_S)
    writer.close()


@asynccontextmanager
async def forwarder(proxy: RunningProxy) -> AsyncIterator[int]:
    """Passes each side's end on as just that, as a container engine's forwarder and `ssh -L` do."""

    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.write_eof()

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        onward_reader, onward_writer = await connected(proxy)
        await asyncio.gather(pass_on(reader, onward_writer), pass_on(onward_reader, writer), return_exceptions=True)
        writer.close()
        onward_writer.close()

    server = await asyncio.start_server(forward, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


@pytest.mark.parametrize(
    ("body", "begun"), [(WHOLE, False), (STREAM, False), (STREAM, True)], ids=["whole", "stream", "begun stream"]
)
@pytest.mark.parametrize("through", ["directly", "forwarder"])
async def test_who_has_closed_its_socket_has_left(
    body: dict[str, object], begun: bool, through: str, start_stack: StartStack
) -> None:
    stack = await start_stack([hangs()], [streams(token(" city"), asyncio.Event()) if begun else hangs()])
    async with forwarder(stack.proxy) as port:
        if through == "directly":
            port = int(stack.proxy.url.rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port)) as client:
            client.setblocking(False)
            await asyncio.get_running_loop().sock_sendall(client, post(body))
            await asyncio.wait_for(stack.consumers[0].arrived.wait(), PATIENCE_S)
            if begun:
                seen = b""
                while not seen.endswith(token(" city") + b"\r\n"):  # all is read: to close is then an orderly end
                    seen += await asyncio.wait_for(asyncio.get_running_loop().sock_recv(client, 65536), PATIENCE_S)
        for server in (stack.producers[0], stack.consumers[0]):
            await asyncio.wait_for(server.cancelled.wait(), PATIENCE_S)
    await eventually(lambda: not stack.proxy.gateway.being_served)
