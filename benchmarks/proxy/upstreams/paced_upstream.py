"""A producer and a consumer at a fixed interval: python -m benchmarks.proxy.upstreams.paced_upstream 8100 8200 2

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

import uvloop

from benchmarks.proxy.upstreams.answers import DONE, ENGINES, MODELS, NO_RENDER, RENDER, event, last_event, whole
from benchmarks.scripted_http import BACKLOG, END, Connection, chunk

TOKENS = re.compile(rb'"max_tokens":\s*(\d+)')
INTERVAL = re.compile(rb"interval (\d+) us")
STREAMED = re.compile(rb'"stream":\s*(true|false)')
STREAM_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"
MARK = "@"
BEFORE_TEXT, AFTER_TEXT = event(MARK).split(MARK.encode())


def stamped() -> bytes:
    """An event whose text is the time."""
    return chunk(b"%b %d%b" % (BEFORE_TEXT, time.perf_counter_ns(), AFTER_TEXT))


LAST = chunk(last_event() + DONE) + END


class Vllm(Connection):
    def answer(self, method: bytes, path: bytes, body: bytes) -> None:
        if method != b"POST":
            self.write_whole(ENGINES if path == b"/query" else MODELS)
            return
        if path == RENDER.encode():
            self.write_whole(NO_RENDER, b"403 Forbidden")
            return
        # A name may be there twice: then the last one counts, as in Python's JSON.
        wanted, interval, streamed = TOKENS.findall(body), INTERVAL.search(body), STREAMED.findall(body)
        tokens = int(wanted[-1]) if wanted else 16
        if not streamed or streamed[-1] == b"false":
            self.write_whole(whole(tokens))
        elif interval is None or not int(interval[1]):
            self.transport.write(STREAM_HEAD + b"".join(stamped() for _ in range(tokens - 1)) + LAST)
        else:
            self.transport.write(STREAM_HEAD)
            self._pace(tokens, int(interval[1]) / 1e6, self.loop.time())

    def _pace(self, left: int, interval_s: float, due: float) -> None:
        if left == 1:
            self.timer = None
            self.transport.write(LAST)
            return
        self.transport.write(stamped())
        # From the time that was due, not from now: lateness must not add up.
        self.timer = self.loop.call_at(due + interval_s, self._pace, left - 1, interval_s, due + interval_s)


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
