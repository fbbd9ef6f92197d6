"""HTTP/1.0: no chunks, no interim answers; a connection stays open only for who asks and for what says its length."""

import asyncio

import pytest

from tests.unit.proxy.conftest import PATIENCE_S, StartStack, without_comment
from tests.unit.proxy.http.raw import answered, connected, get, post, split
from tests.unit.proxy.scripted import DONE, MODEL, error, prefilled, replies, streams, token

WHOLE = {"model": MODEL, "prompt": "San Francisco is a"}
STREAM = WHOLE | {"stream": True}
KEEP_ALIVE = "Connection: Keep-Alive"


@pytest.mark.parametrize(
    "asked", [(), (KEEP_ALIVE,), ("Expect: 100-continue",), ("Connection: Upgrade", "Upgrade: h2c")]
)
async def test_the_end_of_the_connection_ends_a_stream(asked: tuple[str, ...], start_stack: StartStack) -> None:
    stack = await start_stack([prefilled()], [streams(token(" city"), token(" of"), DONE)])
    status, headers, body = await answered(stack.proxy, post(STREAM, *asked, version="1.0"))
    assert status == b"HTTP/1.1 200 OK"
    assert "transfer-encoding" not in headers
    assert headers["connection"] == "close"
    assert without_comment(body) == token(" city") + token(" of") + DONE


async def test_a_stream_that_breaks_off_ends_with_its_error(start_stack: StartStack) -> None:
    stack = await start_stack([prefilled()], [streams(token(" city"))])
    _, _, body = await answered(stack.proxy, post(STREAM, version="1.0"))
    assert body.startswith(token(" city") + b'data: {"error"')
    assert body.endswith(b"}\n\n")


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (post(WHOLE, version="1.0"), 200),
        (post(WHOLE | {"model": "other"}, version="1.0"), 404),
        (get("/v1/models", version="1.0"), 200),
        (get("/metrics", version="1.0"), 200),
        (get("/unknown", version="1.0"), 404),
    ],
)
async def test_a_whole_answer_has_its_length(sent: bytes, status: int, start_stack: StartStack) -> None:
    stack = await start_stack([prefilled()], [replies(200, {"choices": [{"text": " city"}]})])
    line, headers, body = await answered(stack.proxy, sent)
    assert line.split()[1] == str(status).encode()
    assert int(headers["content-length"]) == len(body) > 0
    assert "transfer-encoding" not in headers
    assert headers["connection"] == "close"


async def test_who_asks_keeps_the_connection(start_stack: StartStack) -> None:
    stack = await start_stack([prefilled()], [error(400, "no")])
    reader, writer = await connected(stack.proxy)
    for sent in (
        get("/v1/models", KEEP_ALIVE, version="1.0"),
        post(WHOLE, KEEP_ALIVE, version="1.0"),
        get("/health", KEEP_ALIVE, method="HEAD", version="1.0"),
    ):
        writer.write(sent)
        _, headers, _ = split(await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), PATIENCE_S))
        assert headers["connection"] == "keep-alive"
        if not sent.startswith(b"HEAD"):
            await asyncio.wait_for(reader.readexactly(int(headers["content-length"])), PATIENCE_S)
    writer.write(get("/health", version="1.0"))
    _, headers, _ = split(await asyncio.wait_for(reader.read(), PATIENCE_S))  # up to the end: who does not ask does not
    assert headers["connection"] == "close"
    writer.close()
