"""The way of a transfer's facts from the engine to the headers of the answer."""

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import pytest

from connector.telling.transfer_facts import MOST_KEPT, PIPE_VARIABLE, FactsWriter, TransferFacts

FACTS = {"transfer_id": "t1", "bytes": 4096, "tokens": 12, "transport": "tcp"}


@pytest.fixture
def pipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    path = str(tmp_path / "facts")
    os.mkfifo(path)
    monkeypatch.setenv(PIPE_VARIABLE, path)
    return path


class Server:
    """An ASGI app behind the middleware; `before_token` runs when the answer has started and has no body yet."""

    def __init__(self, before_token: Any = None) -> None:
        self._before_token = before_token
        self.middleware = TransferFacts(self._app)
        self.sent: list[dict[str, Any]] = []

    async def _app(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            return
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
        if self._before_token:
            self._before_token()
        await send({"type": "http.response.body", "body": b"data: 1\n\n", "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    async def _send(self, message: Any) -> None:
        self.sent.append(message)

    async def answer(self, *headers: tuple[bytes, bytes]) -> dict[bytes, bytes]:
        """The headers of an answer to a request with `headers`."""
        await self.middleware({"type": "lifespan"}, None, self._send)
        await self.middleware({"type": "http", "headers": [*headers]}, None, self._send)
        assert [message["type"] for message in self.sent] == ["http.response.start", *["http.response.body"] * 2]
        return dict(self.sent[0]["headers"])


async def test_a_stream_has_the_facts_in_its_headers(pipe: str) -> None:
    write = FactsWriter(pipe)
    headers = await Server(lambda: write(FACTS)).answer((b"x-pd-transfer-id", b"t1"))
    assert json.loads(headers[b"x-pd-transfer-facts"]) == FACTS
    assert headers[b"content-type"] == b"text/event-stream"


@pytest.mark.parametrize(
    "request_headers", [(), ((b"x-pd-transfer-id", b"t2"),)], ids=["no transfer", "another transfer"]
)
async def test_other_answers_are_left_alone(pipe: str, request_headers: Any) -> None:
    write = FactsWriter(pipe)
    assert b"x-pd-transfer-facts" not in await Server(lambda: write(FACTS)).answer(*request_headers)


async def test_a_server_started_by_hand_has_no_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(PIPE_VARIABLE, raising=False)
    FactsWriter(None)(FACTS)
    assert b"x-pd-transfer-facts" not in await Server().answer((b"x-pd-transfer-id", b"t1"))


async def test_facts_that_nobody_asks_for_are_dropped_in_the_end(pipe: str) -> None:
    write, server = FactsWriter(pipe), Server()
    await server.middleware({"type": "lifespan"}, None, server._send)
    for number in range(MOST_KEPT + 10):
        write({"transfer_id": f"t{number}"})
        await asyncio.sleep(0)
    await asyncio.sleep(0)
    headers = await server.answer((b"x-pd-transfer-id", f"t{MOST_KEPT + 9}".encode()))
    assert b"x-pd-transfer-facts" in headers
    assert len(server.middleware._facts) <= MOST_KEPT


async def test_a_full_pipe_holds_nobody_up(pipe: str) -> None:
    write = FactsWriter(pipe)
    for number in range(10_000):  # far more than a pipe holds; a write that blocked would never return
        write({"transfer_id": f"t{number}"})
    headers = await Server().answer((b"x-pd-transfer-id", b"t0"))
    assert json.loads(headers[b"x-pd-transfer-facts"]) == {"transfer_id": "t0"}
