"""A server whose delays are known: python -m benchmarks.loadtest.scripted_server SCRIPT

SCRIPT is a JSON object with the fields of `Script`. Every stream has delays of its own and writes down when each event
was due and when it was written, both in nanoseconds of the clock that all processes of a machine share: what this
process is late by is known, and is no error of the client that is tested. `GET /sent` hands over what was written down
of the streams that have ended, one JSON object for each, and forgets it; `X-Request-Id` tells a stream's number.
"""

import asyncio
import gc
import json
import re
import sys
import time
from dataclasses import asdict, dataclass, field
from typing import Any

import uvloop

from benchmarks.scripted_http import BACKLOG, END, Connection, chunk

MODEL = "scripted"
# The fraction of its multiples spreads most evenly, however many are taken (the additive recurrence of Kronecker): so
# two runs of different tools get the same distribution of delays, in another order.
GOLDEN = (5**0.5 - 1) / 2
TOKENS = re.compile(rb'"max_tokens":\s*(\d+)')
STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\nx-request-id: %d\r\n"
    b"transfer-encoding: chunked\r\n\r\n"
)


@dataclass(frozen=True)
class Script:
    """Times in seconds, each from (lowest, highest)."""

    port: int
    ttft_s: tuple[float, float]
    gap_s: tuple[float, float]

    def delays(self, stream: int, events: int) -> list[float]:
        """Until the first event, and between each and the next."""
        fractions = [GOLDEN * (stream + 1) % 1, *(GOLDEN * (stream + 7 * event) % 1 for event in range(1, events))]
        ranges = [self.ttft_s, *[self.gap_s] * (events - 1)]
        return [low + (high - low) * part for (low, high), part in zip(ranges, fractions, strict=True)]


@dataclass(frozen=True, slots=True)
class Sent:
    """One stream, in nanoseconds: when its request was there, when its events were due and when they were written."""

    stream: int
    received: int
    due: list[int] = field(default_factory=list)
    written: list[int] = field(default_factory=list)

    @classmethod
    def of_json(cls, line: bytes) -> "Sent":
        return cls(**json.loads(line))


class Server:
    def __init__(self, script: Script) -> None:
        self.script = script
        self.streams = 0
        self.ended: list[Sent] = []

    def sent(self) -> bytes:
        ended, self.ended = self.ended, []
        return b"".join(json.dumps(asdict(stream)).encode() + b"\n" for stream in ended)


class Stream(Connection):
    def __init__(self, server: Server) -> None:
        super().__init__()
        self._server = server

    def answer(self, method: bytes, path: bytes, body: bytes) -> None:
        match path:
            case b"/v1/completions":
                wanted = TOKENS.search(body)
                self._stream(int(wanted[1]) if wanted else 16)
            case b"/v1/models":
                self.write_whole(_json({"object": "list", "data": [{"id": MODEL, "object": "model", "root": MODEL}]}))
            case b"/sent":
                self.write_whole(self._server.sent())
            case _:
                self.write_whole(
                    _json({"error": {"message": "no such path", "type": "NotFoundError"}}), b"404 Not Found"
                )

    def _stream(self, events: int) -> None:
        received = time.perf_counter_ns()
        sent = Sent(self._server.streams, received)
        self._server.streams += 1
        due = received
        for delay in self._server.script.delays(sent.stream, events):
            due += round(delay * 1e9)
            sent.due.append(due)
        self.transport.write(STREAM_HEAD % sent.stream)
        self._wait(sent)

    def _wait(self, sent: Sent) -> None:
        # From the time that was due, not from now: lateness must not add up.
        left_s = (sent.due[len(sent.written)] - time.perf_counter_ns()) / 1e9
        self.timer = self.loop.call_later(max(0.0, left_s), self._write, sent)

    def _write(self, sent: Sent) -> None:
        number, total = len(sent.written), len(sent.due)
        last = number + 1 == total
        content = _event(f" word{number}", "length" if last else None)
        sent.written.append(time.perf_counter_ns())
        if not last:
            self.transport.write(chunk(content))
            self._wait(sent)
        else:
            self.timer = None
            self._server.ended.append(sent)
            self.transport.write(chunk(content + _usage(total) + b"data: [DONE]\n\n") + END)


def _event(text: str, finish_reason: str | None) -> bytes:
    choice = {"index": 0, "text": text, "logprobs": None, "finish_reason": finish_reason, "stop_reason": None}
    return _data({"choices": [choice], "usage": None})


def _usage(tokens: int) -> bytes:
    usage = {"prompt_tokens": 1, "completion_tokens": tokens, "total_tokens": 1 + tokens}
    return _data({"choices": [], "usage": usage})


def _data(rest: dict[str, Any]) -> bytes:
    head = {"id": "cmpl-0f1e2d3c4b5a6978", "object": "text_completion", "created": 1700000000, "model": MODEL}
    return b"data: " + _json({**head, **rest}) + b"\n\n"


def _json(document: dict[str, Any]) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode()


async def serve(script: Script) -> asyncio.Server:
    server = Server(script)
    loop = asyncio.get_running_loop()
    return await loop.create_server(lambda: Stream(server), "127.0.0.1", script.port, backlog=BACKLOG)


async def _serve_forever(script: Script) -> None:
    await serve(script)
    await asyncio.Event().wait()


def main() -> None:
    given = json.loads(sys.argv[1])
    gc.disable()  # a collection would be seen as a gap
    uvloop.run(_serve_forever(Script(given["port"], tuple(given["ttft_s"]), tuple(given["gap_s"]))))


if __name__ == "__main__":
    main()
