"""A transfer's facts as a header of the answer: what has moved, how and how long, for streams too.

vLLM puts a connector's `kv_transfer_params` into whole answers only. So the engine, which learns of a transfer's end
before the first token is computed, writes the facts into a named pipe that the launcher has made, and this middleware
of the API server adds them to the answer of the request that names the transfer in X-PD-Transfer-Id. No request ever
waits for facts: what cannot be written at once, or comes too late, is dropped.
"""

import asyncio
import contextlib
import json
import os
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any

PIPE_VARIABLE = "TRANSFER_FACTS_PIPE"
ID_HEADER = b"x-pd-transfer-id"
FACTS_HEADER = b"x-pd-transfer-facts"
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
        with contextlib.suppress(BlockingIOError):  # nobody reads: the engine has more urgent things to do
            os.write(self._pipe, json.dumps(facts, separators=(",", ":")).encode() + b"\n")


class TransferFacts:
    """ASGI middleware, given to vLLM as `--middleware connector.telling.transfer_facts.TransferFacts`."""

    def __init__(self, app: Callable[[Message, Any, Send], Awaitable[None]]) -> None:
        self._app = app
        self._pipe: int | None = None
        self._rest = b""
        self._facts: OrderedDict[str, bytes] = OrderedDict()

    async def __call__(self, scope: Message, receive: Any, send: Send) -> None:
        if scope["type"] == "lifespan" and (pipe := os.environ.get(PIPE_VARIABLE)):
            self._pipe = os.open(pipe, os.O_RDWR | os.O_NONBLOCK)
            asyncio.get_running_loop().add_reader(self._pipe, self._read)
        transfer_id = dict(scope.get("headers", ())).get(ID_HEADER)
        if transfer_id is None or self._pipe is None:
            await self._app(scope, receive, send)
            return
        start: Message | None = None

        async def send_with_facts(message: Message) -> None:
            nonlocal start
            if message["type"] == "http.response.start":
                start = message  # held until the first of the body, when the facts are known
                return
            if start is not None:
                self._read()
                if (facts := self._facts.pop(transfer_id.decode(), None)) is not None:
                    start["headers"] = [*start["headers"], (FACTS_HEADER, facts)]
                await send(start)
                start = None
            await send(message)

        await self._app(scope, receive, send_with_facts)

    def _read(self) -> None:
        assert self._pipe is not None
        with contextlib.suppress(BlockingIOError):  # nothing more
            while data := os.read(self._pipe, 1 << 16):
                *lines, self._rest = (self._rest + data).split(b"\n")
                for line in lines:
                    self._facts[json.loads(line)["transfer_id"]] = line
        while len(self._facts) > MOST_KEPT:
            self._facts.popitem(last=False)
