"""A transfer's facts as a header of the answer: what has moved, how and how long, for streams too.

vLLM puts a connector's `kv_transfer_params` into whole answers only. So the engine writes the facts into a named pipe
that the launcher has made, and this middleware of the API server adds them to the answer of the request that names the
transfer in X-PD-Transfer-Id: to its headers what is known by then, to a stream what becomes known later, as a comment
in front of the events that follow, `: pd-transfer {...}`. A stream may begin before the transfer has ended: with the
producer's first token (`first_token`, `first_token_way`, and in `expected_tokens` how many of the prompt shall come;
the consumer's has `first_token_cause`). No request ever waits for facts: what cannot be written at once, or comes too
late, is dropped.
"""

import asyncio
import contextlib
import json
import os
import select
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from functools import partial
from typing import Any

PIPE_VARIABLE = "TRANSFER_FACTS_PIPE"
ID_HEADER = b"x-pd-transfer-id"
FACTS_HEADER = b"x-pd-transfer-facts"
COMMENT = b": pd-transfer "
EVENT_STREAM = b"text/event-stream"
THE_LAST = "bytes"  # a fact of a transfer that has ended
# Facts whose request has gone are never asked for.
MOST_KEPT = 4096

Message = MutableMapping[str, Any]
Send = Callable[[Message], Awaitable[None]]


class FactsWriter:
    """The engine's end of the pipe; without a pipe it does nothing."""

    def __init__(self, pipe: str | None) -> None:
        # Read and write: opening a pipe to write fails while the API server has not opened it to read.
        self._pipe = os.open(pipe, os.O_RDWR | os.O_NONBLOCK) if pipe else None

    def __call__(self, facts: Mapping[str, Any]) -> None:
        """Args: facts: with `transfer_id`; a line of less than PIPE_BUF bytes is written whole or not at all."""
        if self._pipe is None:
            return
        line = _encoded(facts) + b"\n"
        if len(line) > select.PIPE_BUF:  # in names that are very long
            line = _encoded({name: value for name, value in facts.items() if name != "timeline"}) + b"\n"
        with contextlib.suppress(BlockingIOError):  # nobody reads: the engine has more urgent things to do
            os.write(self._pipe, line)


class TransferFacts:
    """ASGI middleware, given to vLLM as `--middleware connector.telling.transfer_facts.TransferFacts`."""

    def __init__(self, app: Callable[[Message, Any, Send], Awaitable[None]]) -> None:
        self._app = app
        self._pipe: int | None = None
        self._rest = b""
        self._facts: OrderedDict[str, dict[str, Any]] = OrderedDict()

    async def __call__(self, scope: Message, receive: Any, send: Send) -> None:
        if scope["type"] == "lifespan" and (pipe := os.environ.get(PIPE_VARIABLE)):
            self._pipe = os.open(pipe, os.O_RDWR | os.O_NONBLOCK)
            asyncio.get_running_loop().add_reader(self._pipe, self._read)
        transfer_id = dict(scope.get("headers", ())).get(ID_HEADER)
        if transfer_id is None or self._pipe is None:
            await self._app(scope, receive, send)
            return
        try:
            await self._app(scope, receive, _Answer(send, partial(self._known, transfer_id.decode())).send)
        finally:
            self._facts.pop(transfer_id.decode(), None)

    def _known(self, transfer_id: str) -> dict[str, Any]:
        self._read()
        return self._facts.get(transfer_id, {})

    def _read(self) -> None:
        assert self._pipe is not None
        with contextlib.suppress(BlockingIOError):  # nothing more
            while data := os.read(self._pipe, 1 << 16):
                *lines, self._rest = (self._rest + data).split(b"\n")
                for line in lines:
                    facts = json.loads(line)
                    known = self._facts.get(facts["transfer_id"], {})
                    self._facts[facts["transfer_id"]] = known | facts  # a new one: who has told it compares
        while len(self._facts) > MOST_KEPT:
            self._facts.popitem(last=False)


class _Answer:
    """One answer on its way; `known` says what is known of its transfer."""

    def __init__(self, send: Send, known: Callable[[], dict[str, Any]]) -> None:
        self._send = send
        self._known = known
        self._start: Message | None = None
        self._is_stream = False
        self._told: dict[str, Any] = {}

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._start = message  # held until the first of the body, when most is known
            return
        if self._start is not None:
            start, self._start = self._start, None
            self._is_stream = dict(start["headers"]).get(b"content-type", b"").startswith(EVENT_STREAM)
            self._told = self._known()
            if self._told:
                start["headers"] = [*start["headers"], (FACTS_HEADER, _encoded(self._told))]
            await self._send(start)
        elif self._is_stream and THE_LAST not in self._told:
            known = self._known()
            if known != self._told:
                self._told = known
                message = {**message, "body": COMMENT + _encoded(known) + b"\n\n" + message.get("body", b"")}
        await self._send(message)


def _encoded(facts: Mapping[str, Any]) -> bytes:
    return json.dumps(facts, separators=(",", ":")).encode()
