"""The client against a scripted server. No clock decides: where time matters, server and client take turns."""

import asyncio
import contextlib
import json
import socket
import threading
from collections.abc import Iterator, Sequence

import pytest

from loadtest.completion.client import CompletionClient
from loadtest.completion.measurement import StreamObserver
from loadtest.errors import (
    ConnectionFailed,
    HttpError,
    RequestFailed,
    StreamCutOff,
    TimedOut,
    UnexpectedAnswer,
)
from tests.unit.loadtest.scripted_server import (
    DONE,
    MODEL,
    BreakConnection,
    Script,
    ScriptedServer,
    Step,
    completion,
    error_answer,
    text,
)

BODY = {"model": MODEL, "prompt": "San Francisco is a"}
REQUEST = ("/v1/completions", json.dumps(BODY).encode())

LIMIT_S = 10


class Serve:
    """Starts servers that give every request the same answer, each with a client of it."""

    def __init__(self, running: contextlib.ExitStack) -> None:
        self._running = running

    def __call__(
        self,
        script: Script,
        models: Sequence[str] = (MODEL,),
        timeout_s: float = LIMIT_S,
        api_key: str | None = None,
    ) -> tuple[ScriptedServer, CompletionClient]:
        server = self._running.enter_context(ScriptedServer(lambda _: script, models).running())
        client = CompletionClient(server.url, timeout_s, api_key)
        self._running.callback(client.close)
        return server, client


@pytest.fixture
def serve() -> Iterator[Serve]:
    with contextlib.ExitStack() as running:
        yield Serve(running)


def stream(client: CompletionClient) -> StreamObserver:
    observer = StreamObserver()
    with client.stream(*REQUEST) as answer:
        for arrived_at, event in answer:
            observer.receive(arrived_at, event)
    observer.check_whole()
    return observer


def test_chunk_is_handed_on_before_the_next_is_sent(serve: Serve) -> None:
    """The server sends a chunk only after the one before it has been seen: a client that buffers waits for ever."""
    seen = threading.Semaphore(1)

    async def turn() -> None:
        if not await asyncio.to_thread(seen.acquire, timeout=LIMIT_S / 2):
            raise TimeoutError("the client holds a chunk back")

    _, client = serve(completion(20, first=turn, gap=turn))
    arrivals = []
    with client.stream(*REQUEST) as answer:
        for arrived_at, _ in answer:
            arrivals.append(arrived_at)
            seen.release()
    assert len(arrivals) == 20 + 2  # tokens, usage, [DONE]
    assert arrivals == sorted(arrivals)


def test_event_in_two_pieces(serve: Serve) -> None:
    first = text("San Francisco")
    last = text("", "stop")
    _, client = serve(Script([Step(first[:20]), Step(first[20:] + last[:9]), Step(last[9:] + DONE)]))
    assert stream(client).finish_reason == "stop"


def test_answer_is_measured(serve: Serve) -> None:
    server, client = serve(completion(3))
    measured = stream(client)
    assert len(measured.content_at) == measured.fields["output_tokens"] == 3
    assert measured.fields["prompt_tokens"] == 4
    assert server.bodies == [BODY]


def test_connection_is_kept(serve: Serve) -> None:
    server, client = serve(completion(3))
    stream(client)
    stream(client)
    assert len(server.connections) == 1


@pytest.mark.parametrize(("api_key", "header"), [(None, None), ("secret", "Bearer secret")])
def test_api_key(serve: Serve, api_key: str | None, header: str | None) -> None:
    server, client = serve(completion(1), api_key=api_key)
    stream(client)
    assert server.authorization == [header]


def test_served_model(serve: Serve) -> None:
    _, client = serve(completion(1), models=("first", "second"))
    assert client.served_model() == "first"


def test_no_served_model(serve: Serve) -> None:
    _, client = serve(completion(1), models=())
    with pytest.raises(UnexpectedAnswer, match="/v1/models lists no model"):
        client.served_model()


@pytest.mark.parametrize(
    ("script", "failure", "message"),
    [
        pytest.param(
            error_answer(503, "no decode instance"), HttpError, "503: no decode instance", id="OpenAI's error body"
        ),
        pytest.param(
            Script([Step(b"Bad Gateway")], status=502, content_type="text/plain"),
            HttpError,
            "502: Bad Gateway",
            id="another error body",
        ),
        pytest.param(
            Script([Step(b'{"choices": []}')], content_type="application/json"),
            UnexpectedAnswer,
            "content type 'application/json' instead of text/event-stream",
            id="not streamed",
        ),
        pytest.param(Script([Step(text("a"))]), StreamCutOff, "ended before a finish_reason", id="ended too early"),
        pytest.param(
            Script([Step(text("a")), Step(BreakConnection())]),
            StreamCutOff,
            "connection broke: ",
            id="connection broken",
        ),
    ],
)
def test_failures(serve: Serve, script: Script, failure: type[RequestFailed], message: str) -> None:
    _, client = serve(script)
    with pytest.raises(failure) as raised:
        stream(client)
    assert str(raised.value).startswith(message)


@pytest.mark.parametrize("steps", [pytest.param(0, id="no answer"), pytest.param(1, id="no end")])
def test_silence(serve: Serve, steps: int) -> None:
    _, client = serve(Script([*[Step(text("a"))] * steps, Step(DONE, wait=asyncio.Event().wait)]), timeout_s=0.2)
    with pytest.raises(TimedOut, match=r"for 0\.2 s"):
        stream(client)


def test_nobody_listens() -> None:
    with socket.socket() as bound_but_not_listening:
        bound_but_not_listening.bind(("127.0.0.1", 0))
        host, port = bound_but_not_listening.getsockname()
        with pytest.raises(ConnectionFailed, match="Connection refused"):
            CompletionClient(f"http://{host}:{port}", timeout_s=LIMIT_S).served_model()
