"""The server whose delays are known, and our load test's client reading from it."""

import json
from collections.abc import AsyncIterator

import aiohttp
import pytest

from benchmarks.loadtest.comparison import compare
from benchmarks.loadtest.scripted_server import Script, Sent, serve
from loadtest.completion.measurement import StreamObserver
from loadtest.completion.sse import EventParser
from loadtest.figures.record import RequestRecord

EVENTS = 5


@pytest.fixture
async def url() -> AsyncIterator[str]:
    server = await serve(Script(0, (0.01, 0.02), (0.001, 0.002)))
    yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    server.close()
    await server.wait_closed()


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


async def streamed(http: aiohttp.ClientSession, url: str) -> RequestRecord:
    """As the load test reads it, with times of no meaning."""
    observer, parser = StreamObserver(), EventParser()
    async with http.post(f"{url}/v1/completions", json={"max_tokens": EVENTS, "stream": True}) as answer:
        async for line in answer.content:
            for event in parser.feed(line):
                observer.receive(0.0, event)
    observer.check_whole()
    record = RequestRecord(
        index=0,
        outcome="completed",
        scheduled=0.0,
        started=0.0,
        ended=0.0,
        request_id=answer.headers["X-Request-Id"],
        **observer.fields,
    )
    assert record.output_tokens == EVENTS
    return record


async def sent(http: aiohttp.ClientSession, url: str) -> dict[str, Sent]:
    async with http.get(f"{url}/sent") as answer:
        return {str(one.stream): one for one in map(Sent.of_json, (await answer.read()).splitlines())}


async def test_a_stream_has_an_event_for_each_token_and_tells_when_it_wrote_them(
    http: aiohttp.ClientSession, url: str
) -> None:
    record = await streamed(http, url)
    found = await sent(http, url)
    stream = found[record.request_id or ""]
    assert len(stream.written) == len(stream.due) == EVENTS
    assert stream.received < stream.written[0]
    assert stream.written == sorted(stream.written)
    assert all(written >= due - 1_000_000 for written, due in zip(stream.written, stream.due, strict=True))
    assert compare([record], found).unmatched == 0


async def test_what_was_handed_over_is_forgotten(http: aiohttp.ClientSession, url: str) -> None:
    numbers = [(await streamed(http, url)).request_id for _ in range(2)]
    assert list(await sent(http, url)) == numbers
    assert await sent(http, url) == {}
    third = await streamed(http, url)
    assert list(await sent(http, url)) == [third.request_id]


async def test_other_paths_are_answered_as_a_server_without_a_tokenizer_does(
    http: aiohttp.ClientSession, url: str
) -> None:
    async with http.get(f"{url}/v1/models") as answer:
        assert (await answer.json())["data"][0]["id"] == "scripted"
    async with http.post(f"{url}/tokenize", data=json.dumps({"prompt": "x"})) as answer:
        assert answer.status == 404
