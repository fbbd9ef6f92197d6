"""A producer and a consumer that stream at a fixed interval: python -m benchmarks.proxy.paced_upstream 8100 8200 2

Arguments: the producer's port, the consumer's, how many processes share both. `max_tokens` of the body says how many
events a stream has, its prompt how many microseconds lie between them; the first comes at once, and with 0 all come in
one piece. The text of each event is the time at which it was written, in nanoseconds of the clock that all processes of
a machine share. There is no queue: a reader that lags behind finds the events in its socket.
"""

import asyncio
import gc
import os
import re
import sys
import time
from typing import cast

import httptools
import uvloop

from benchmarks.proxy.answers import DONE, ENGINES, MODELS, NO_RENDER, RENDER, event, last_event, whole

TOKENS = re.compile(rb'"max_tokens":\s*(\d+)')
INTERVAL = re.compile(rb"interval (\d+) us")
STREAMED = re.compile(rb'"stream":\s*(true|false)')
STREAM_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"
END = b"0\r\n\r\n"
MARK = "@"
BEFORE_TEXT, AFTER_TEXT = event(MARK).split(MARK.encode())
BACKLOG = 4096


def chunk(content: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(content), content)


def stamped() -> bytes:
    """An event whose text is the time."""
    return chunk(b"%b %d%b" % (BEFORE_TEXT, time.perf_counter_ns(), AFTER_TEXT))


LAST = chunk(last_event() + DONE) + END


class Vllm(asyncio.Protocol):
    """One connection, one request after the other."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._parser = httptools.HttpRequestParser(self)
        self._path = b""
        self._body: list[bytes] = []
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's own class is none of asyncio's

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def connection_lost(self, error: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        del self._parser  # it refers to this object, and nothing collects cycles here

    def on_url(self, path: bytes) -> None:
        self._path = path
        self._body = []

    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_message_complete(self) -> None:
        if self._parser.get_method() != b"POST":
            self._whole(ENGINES if self._path == b"/query" else MODELS)
            return
        if self._path == RENDER.encode():
            self._whole(NO_RENDER, b"403 Forbidden")
            return
        body = b"".join(self._body)
        # A name may be there twice: then the last one counts, as in Python's JSON.
        wanted, interval, streamed = TOKENS.findall(body), INTERVAL.search(body), STREAMED.findall(body)
        tokens = int(wanted[-1]) if wanted else 16
        if not streamed or streamed[-1] == b"false":
            self._whole(whole(tokens))
        elif interval is None or not int(interval[1]):
            self._transport.write(STREAM_HEAD + b"".join(stamped() for _ in range(tokens - 1)) + LAST)
        else:
            self._transport.write(STREAM_HEAD)
            self._pace(tokens, int(interval[1]) / 1e6, self._loop.time())

    def _whole(self, body: bytes, status: bytes = b"200 OK") -> None:
        head = b"HTTP/1.1 %b\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % (status, len(body))
        self._transport.write(head + body)

    def _pace(self, left: int, interval_s: float, due: float) -> None:
        if left == 1:
            self._timer = None
            self._transport.write(LAST)
            return
        self._transport.write(stamped())
        # From the time that was due, not from now: lateness must not add up.
        self._timer = self._loop.call_at(due + interval_s, self._pace, left - 1, interval_s, due + interval_s)


async def _serve(ports: list[int]) -> None:
    loop = asyncio.get_running_loop()
    for port in ports:
        await loop.create_server(Vllm, "127.0.0.1", port, reuse_port=True, backlog=BACKLOG)
    await asyncio.Event().wait()


def main() -> None:
    *ports, processes = map(int, sys.argv[1:])
    for _ in range(processes - 1):
        if os.fork() == 0:
            break
    gc.disable()  # a collection would be seen as a gap
    uvloop.run(_serve(ports))


if __name__ == "__main__":
    main()
