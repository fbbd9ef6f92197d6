"""The load generator's connection against the paced upstream, and against servers that answer badly."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial

import aiohttp
import pytest

from benchmarks.proxy.clients import stream_client
from benchmarks.proxy.clients.stream_client import Connection, Job, Recorder
from benchmarks.proxy.upstreams.answers import DONE, event
from benchmarks.proxy.upstreams.paced_upstream import STREAM_HEAD, Vllm
from benchmarks.scripted_http import chunk

BROKEN = {
    "HTTP 503": b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 2\r\n\r\n{}",
    "ended without [DONE]": STREAM_HEAD + chunk(event(" 1")) + b"0\r\n\r\n",
    "connection closed before the end of the answer": STREAM_HEAD + chunk(event(" 1")),
    "not HTTP: Expected HTTP/": b"SSH-2.0-OpenSSH\r\n",
}


@asynccontextmanager
async def listening(protocol: Callable[[], asyncio.Protocol]) -> AsyncIterator[int]:
    server = await asyncio.get_running_loop().create_server(protocol, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


class Answers(asyncio.Protocol):
    """Answers anything with the same bytes and closes."""

    def __init__(self, answer: bytes) -> None:
        self._answer = answer

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._transport.write(self._answer)
        self._transport.close()


async def one_request(port: int, tokens: int, interval_us: int) -> Recorder:
    job = Job(port, 1, 30.0, 0.0, 0.0, tokens, interval_us, prompt_bytes=2000)
    recorder = Recorder(job)
    loop = asyncio.get_running_loop()
    _, connection = await loop.create_connection(partial(Connection, recorder), "127.0.0.1", port)
    recorder.end()  # it finishes its request, and sends no other
    await connection.closed
    return recorder


@pytest.mark.timeout(30)
@pytest.mark.parametrize("interval_us", [0, 1000])
async def test_every_event_of_a_stream_is_timed(interval_us: int) -> None:
    async with listening(Vllm) as port:
        recorder = await one_request(port, 20, interval_us)
    assert (recorder.requests, recorder.errors.total()) == (1, 0)
    assert recorder.events == 19  # the last has no text
    assert recorder.ttft.counts.total() == recorder.whole.counts.total() == 1
    assert recorder.delays.counts.total() == 19
    assert recorder.gaps.counts.total() == 18


@pytest.mark.timeout(30)
async def test_a_stream_is_paced() -> None:
    async with listening(Vllm) as port:
        recorder = await one_request(port, 20, 5000)
    whole_ms = recorder.whole.percentile_ms(100)
    assert whole_ms is not None
    assert whole_ms >= 19 * 5 - 1


@pytest.mark.timeout(30)
@pytest.mark.parametrize("cause", BROKEN)
async def test_what_went_wrong_is_counted_by_its_cause(cause: str) -> None:
    async with listening(partial(Answers, BROKEN[cause])) as port:
        recorder = await one_request(port, 20, 0)
    (found,) = recorder.errors
    assert found.startswith(cause)
    assert recorder.requests == 0


@pytest.mark.timeout(30)
async def test_an_answer_that_never_ends_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_client, "MARGIN_S", 0.0)
    recorder = Recorder(Job(0, 2, 0.01, 0.0, 0.0, 2, 0, 100))
    users = [asyncio.create_task(asyncio.Event().wait()), asyncio.create_task(asyncio.sleep(0))]
    await recorder.run_out(users)
    assert recorder.errors == {"not answered in full by the end": 1}
    users[0].cancel()


@pytest.mark.timeout(30)
async def test_an_event_that_comes_in_two_chunks_is_one() -> None:
    whole = event(" 1")
    answer = STREAM_HEAD + chunk(whole[:40]) + chunk(whole[40:] + DONE) + b"0\r\n\r\n"
    async with listening(partial(Answers, answer)) as port:
        recorder = await one_request(port, 2, 0)
    assert (recorder.requests, recorder.events, recorder.errors.total()) == (1, 1, 0)


@pytest.mark.timeout(30)
@pytest.mark.parametrize(
    ("path", "body", "status", "content"),
    [
        ("/v1/completions", '{"max_tokens": 1, "stream":false}', 200, b"kv_transfer_params"),
        # A producer's leg: the client's body with members appended.
        ("/v1/completions", '{"max_tokens": 9, "stream": true, "stream": false, "max_tokens": 1}', 200, b"kv_transfer"),
        ("/v1/completions/render", '{"max_tokens": 1, "stream":true}', 403, b"Scale-out endpoints are disabled"),
    ],
)
async def test_what_is_no_stream_is_one_answer(path: str, body: str, status: int, content: bytes) -> None:
    async with (
        listening(Vllm) as port,
        aiohttp.request("POST", f"http://127.0.0.1:{port}{path}", data=body) as response,
    ):
        assert response.status == status
        assert content in await response.read()


@pytest.mark.timeout(30)
async def test_a_bootstrap_server_knows_its_engine() -> None:
    async with listening(Vllm) as port, aiohttp.request("GET", f"http://127.0.0.1:{port}/query") as response:
        assert (await response.json())["0"]["engine_id"] == "engine-0"
