"""Reads streams and takes the time of every event: python -m benchmarks.proxy.clients.stream_client JOB

JOB is a JSON object with the fields of `Job`. Every connection sends its next request when it has its answer. After
`seconds`, or at SIGTERM, it prints one JSON object, see `Recorder.document`; before, it prints "open" once, when as
many streams have begun as there are connections. An upstream writes into each event when it was sent, so its way
through the proxy is known.
"""

import asyncio
import gc
import json
import random
import re
import signal
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import cycle
from typing import Any, cast

import httptools
import uvloop

from benchmarks.proxy.clients.histogram import Histogram
from benchmarks.proxy.upstreams.answers import PATH, request_bodies

SENT = re.compile(rb'"text":\s*" (\d+)"')
BODIES = 256
PAUSE_AFTER_ERROR_S = 0.05
MARGIN_S = 15.0  # for the last answers of a proxy that is far behind


@dataclass(frozen=True)
class Job:
    """`start_within_s`: over so long the first requests are spread, so that streams do not move in step."""

    port: int
    connections: int
    seconds: float
    warm_up_s: float
    start_within_s: float
    tokens: int
    interval_us: int
    prompt_bytes: int


class Recorder:
    """What one process has seen. Times count when their request was sent after the warm-up; the rest counts always."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self.bodies = cycle(request_bodies(BODIES, job.prompt_bytes, job.tokens, job.interval_us))
        started = time.perf_counter_ns()
        self.measure_from = started + int(job.warm_up_s * 1e9)
        self.until = started + int(job.seconds * 1e9)
        self.ttft, self.whole, self.gaps, self.delays = Histogram(), Histogram(), Histogram(), Histogram()
        self.requests = self.events = self.reads = self.measured_events = 0
        self.errors: Counter[str] = Counter()
        self._waiting_for_first = job.connections
        self._ended = asyncio.Event()

    @property
    def over(self) -> bool:
        return self._ended.is_set() or time.perf_counter_ns() >= self.until

    def end(self) -> None:
        self._ended.set()

    async def run_out(self, users: Sequence["asyncio.Task[Any]"]) -> None:
        """Returns when all users have, when it was told to end, or when the last answers are too late; those count."""
        all_done = asyncio.create_task(asyncio.wait(users))
        ended = asyncio.create_task(self._ended.wait())
        limit = self._job.seconds + MARGIN_S
        done, _ = await asyncio.wait((all_done, ended), timeout=limit, return_when=asyncio.FIRST_COMPLETED)
        if not done:
            self.errors["not answered in full by the end"] += sum(not user.done() for user in users)

    def first_event(self) -> None:
        """As many as there are connections, which is all of them when streams are long."""
        self._waiting_for_first -= 1
        if self._waiting_for_first == 0:
            print("open", flush=True)

    def document(self) -> dict[str, object]:
        histograms = {"ttft": self.ttft, "whole": self.whole, "gaps": self.gaps, "delays": self.delays}
        return {
            "requests": self.requests,
            "events": self.events,
            "reads": self.reads,
            "events_per_s": self.measured_events / (self._job.seconds - self._job.warm_up_s),
            "errors": self.errors,
            **{name: histogram.counts for name, histogram in histograms.items()},
        }


class Connection(asyncio.Protocol):
    """One connection to the proxy; `closed` is done when it has ended, by whomever."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._parser = httptools.HttpResponseParser(self)
        self._waiting = False
        self._rest = b""
        self._done = False
        self._last = 0
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's own class is none of asyncio's
        self._request()

    def data_received(self, data: bytes) -> None:
        self._now = time.perf_counter_ns()
        self._recorder.reads += 1
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._fail(f"not HTTP: {error}")

    def connection_lost(self, error: Exception | None) -> None:
        if self._waiting:
            self._fail("connection closed before the end of the answer")
        del self._parser  # it refers to this object, and nothing collects cycles here
        if not self.closed.done():  # the load is over, and nobody waits
            self.closed.set_result(None)

    def on_body(self, body: bytes) -> None:
        *events, self._rest = (self._rest + body).split(b"\n\n")
        for event in events:
            if sent := SENT.search(event):
                self._token(int(sent[1]))
            elif event == b"data: [DONE]":
                self._done = True

    def on_message_complete(self) -> None:
        status = self._parser.get_status_code()
        if status != 200:
            self._fail(f"HTTP {status}")
        elif not self._done:
            self._fail("ended without [DONE]")
        else:
            self._waiting = False
            self._recorder.requests += 1
            if self._measured:
                self._recorder.whole.add_us((self._now - self._sent) / 1000)
            if self._parser.should_keep_alive():
                # Not from within the parser, which has not finished with this answer.
                asyncio.get_running_loop().call_soon(self._request)
            else:
                self._transport.close()

    def _request(self) -> None:
        if self._recorder.over or self._transport.is_closing():
            self._transport.close()
            return
        body = next(self._recorder.bodies)
        self._rest = b""
        self._done = False
        self._last = 0
        self._waiting = True
        self._sent = time.perf_counter_ns()
        self._measured = self._sent >= self._recorder.measure_from
        self._transport.write(
            b"POST %b HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
            % (PATH.encode(), len(body), body)
        )

    def _token(self, sent: int) -> None:
        recorder = self._recorder
        recorder.events += 1
        if recorder.measure_from <= self._now < recorder.until:
            recorder.measured_events += 1
        if not self._last:
            recorder.first_event()
        if self._measured:
            recorder.delays.add_us((self._now - sent) / 1000)
            if self._last:
                recorder.gaps.add_us((self._now - self._last) / 1000)
            else:
                recorder.ttft.add_us((self._now - self._sent) / 1000)
        self._last = self._now

    def _fail(self, cause: str) -> None:
        self._waiting = False
        self._recorder.errors[cause] += 1
        self._transport.close()


async def _user(job: Job, recorder: Recorder) -> None:
    await asyncio.sleep(random.uniform(0, job.start_within_s))
    loop = asyncio.get_running_loop()
    while not recorder.over:
        failed_before = recorder.errors.total()
        try:
            _, connection = await loop.create_connection(partial(Connection, recorder), "127.0.0.1", job.port)
        except OSError as error:
            recorder.errors[f"cannot connect: {error.strerror}"] += 1
        else:
            await connection.closed
        if recorder.errors.total() > failed_before:
            await asyncio.sleep(PAUSE_AFTER_ERROR_S)


async def _run(job: Job) -> dict[str, object]:
    recorder = Recorder(job)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, recorder.end)
    users = [asyncio.create_task(_user(job, recorder)) for _ in range(job.connections)]
    await recorder.run_out(users)
    return recorder.document()


def main() -> None:
    gc.disable()  # a collection would be seen as a gap
    document = uvloop.run(_run(Job(**json.loads(sys.argv[1]))))
    # With PYTHONUNBUFFERED print() loses what a pipe does not take at once.
    with open(sys.stdout.fileno(), "w", closefd=False) as output:
        output.write(json.dumps(document) + "\n")


if __name__ == "__main__":
    main()
