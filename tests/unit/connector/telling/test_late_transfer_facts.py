"""What becomes known of a transfer when the stream of its request has begun."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from connector.telling.transfer_facts import PIPE_VARIABLE, FactsWriter, TransferFacts

EARLY = {"transfer_id": "t1", "first_token": "producer", "expected_tokens": 12}
LATE = {"transfer_id": "t1", "bytes": 4096, "tokens": 12}
FACTS = b"x-pd-transfer-facts"


async def answer(pipe: Path, kind: bytes, *bodies: tuple[bytes, dict[str, Any] | None]) -> tuple[Any, list[bytes]]:
    """Args: bodies: with the facts that are written just before each. Returns: the facts of the header, the bodies."""
    write, sent = FactsWriter(str(pipe)), []

    async def app(scope: Any, receive: Any, send: Callable[[Any], Any]) -> None:
        if scope["type"] == "lifespan":
            return
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", kind)]})
        for body, facts in bodies:
            if facts:
                write(facts)
            await send({"type": "http.response.body", "body": body, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    async def send(message: Any) -> None:
        sent.append(message)

    middleware = TransferFacts(app)
    await middleware({"type": "lifespan"}, None, send)
    await middleware({"type": "http", "headers": [(b"x-pd-transfer-id", b"t1")]}, None, send)
    assert not middleware._facts
    header = dict(sent[0]["headers"]).get(FACTS)
    return json.loads(header) if header else None, [message["body"] for message in sent[1:]]


@pytest.fixture
def pipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    os.mkfifo(tmp_path / "facts")
    monkeypatch.setenv(PIPE_VARIABLE, str(tmp_path / "facts"))
    return tmp_path / "facts"


def comment(facts: dict[str, Any]) -> bytes:
    return b": pd-transfer " + json.dumps(facts, separators=(",", ":")).encode() + b"\n\n"


async def test_a_stream_has_them_before_its_next_event(pipe: Path) -> None:
    events = ((b"data: 1\n\n", EARLY), (b"data: 2\n\n", LATE), (b"data: 3\n\n", None))
    header, bodies = await answer(pipe, b"text/event-stream; charset=utf-8", *events)
    assert header == EARLY
    assert bodies == [b"data: 1\n\n", comment(EARLY | LATE) + b"data: 2\n\n", b"data: 3\n\n", b""]


async def test_a_stream_that_began_without_any(pipe: Path) -> None:
    """As those of /v1/responses do."""
    events = ((b"data: created\n\n", None), (b"data: 1\n\n", EARLY), (b"data: 2\n\n", LATE))
    header, bodies = await answer(pipe, b"text/event-stream", *events)
    assert header is None
    assert bodies == [
        b"data: created\n\n",
        comment(EARLY) + b"data: 1\n\n",
        comment(EARLY | LATE) + b"data: 2\n\n",
        b"",
    ]


async def test_what_was_whole_at_the_beginning_is_told_once(pipe: Path) -> None:
    events = ((b"data: 1\n\n", EARLY | LATE), (b"data: 2\n\n", EARLY))
    header, bodies = await answer(pipe, b"text/event-stream", *events)
    assert header == EARLY | LATE
    assert bodies == [b"data: 1\n\n", b"data: 2\n\n", b""]


async def test_into_an_answer_that_is_no_stream_nothing_is_written(pipe: Path) -> None:
    header, bodies = await answer(pipe, b"application/json", (b"{", EARLY), (b"}", LATE))
    assert header == EARLY
    assert bodies == [b"{", b"}", b""]
