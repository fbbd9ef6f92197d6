"""An OpenAI-compatible server on loopback that answers by a script: what to send, and after which wait.

It runs on its own event loop in a thread, so that a test can drive a gevent client or a Locust process against it.
"""

import asyncio
import contextlib
import json
import threading
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

MODEL = "scripted"
Wait = Callable[[], Awaitable[object]]


class BreakConnection(Exception):
    """In a script: reset the connection here."""


@dataclass(frozen=True)
class Step:
    """Wait, then send. With `BreakConnection` as the data, break off instead."""

    data: bytes | BreakConnection
    wait: Wait | None = None


@dataclass(frozen=True)
class Script:
    steps: Sequence[Step] = ()
    status: int = 200
    content_type: str = "text/event-stream"
    headers: Mapping[str, str] = field(default_factory=dict)


def after(seconds: float) -> Wait:
    return lambda: asyncio.sleep(seconds)


def sse(payload: object) -> bytes:
    return f"data: {payload if isinstance(payload, str) else json.dumps(payload)}\n\n".encode()


def text(content: str, finish_reason: str | None = None) -> bytes:
    return sse({"choices": [{"index": 0, "text": content, "finish_reason": finish_reason}]})


def usage(prompt_tokens: int, completion_tokens: int) -> bytes:
    return sse({"choices": [], "usage": {"prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens}})


DONE = sse("[DONE]")


def completion(tokens: int, first: Wait | None = None, gap: Wait | None = None) -> Script:
    """A whole answer of so many tokens, one a chunk: `first` before the first, `gap` before each of the others."""
    steps = [Step(text(f" t{i}"), gap if i else first) for i in range(tokens - 1)]
    steps += [Step(text(" end", "length"), gap if tokens > 1 else first), Step(usage(4, tokens)), Step(DONE)]
    return Script(steps)


def error_answer(status: int, message: str) -> Script:
    body = json.dumps({"error": {"message": message, "type": "ServerError", "code": status}}).encode()
    return Script([Step(body)], status=status, content_type="application/json")


@dataclass
class ScriptedServer:
    """`answer` gives the script for a request body; `bodies` and `authorization` are what clients sent."""

    answer: Callable[[dict[str, Any]], Script]
    models: Sequence[str] = (MODEL,)
    bodies: list[dict[str, Any]] = field(default_factory=list)
    authorization: list[str | None] = field(default_factory=list)
    connections: set[object] = field(default_factory=set)
    url: str = ""

    async def _models(self, request: web.Request) -> web.StreamResponse:
        return web.json_response({"object": "list", "data": [{"id": name} for name in self.models]})

    async def _complete(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.bodies.append(body)
        self.authorization.append(request.headers.get("Authorization"))
        assert request.transport is not None
        self.connections.add(request.transport.get_extra_info("peername"))
        script = self.answer(body)
        response = web.StreamResponse(
            status=script.status, headers={"Content-Type": script.content_type, **script.headers}
        )
        await response.prepare(request)
        for step in script.steps:
            if step.wait is not None:
                await step.wait()
            if isinstance(step.data, BreakConnection):
                request.transport.abort()
                break
            await response.write(step.data)
        return response

    async def _serve(self, started: Future[Callable[[], object]]) -> None:
        app = web.Application()
        app.router.add_get("/v1/models", self._models)
        app.router.add_post("/v1/completions", self._complete)
        app.router.add_post("/v1/chat/completions", self._complete)
        runner = web.AppRunner(app, access_log=None, handler_cancellation=True)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        loop, stopped = asyncio.get_running_loop(), asyncio.Event()
        started.set_result(lambda: loop.call_soon_threadsafe(stopped.set))
        await stopped.wait()
        await runner.cleanup()

    @contextlib.contextmanager
    def running(self) -> Iterator["ScriptedServer"]:
        started: Future[Callable[[], object]] = Future()
        thread = threading.Thread(target=lambda: asyncio.run(self._serve(started)), name="scripted-server", daemon=True)
        thread.start()
        stop = started.result(timeout=10)
        try:
            yield self
        finally:
            stop()
            thread.join(timeout=10)


def in_turn(scripts: Iterable[Script]) -> Callable[[dict[str, Any]], Script]:
    """The given answers, one request after the other, round and round."""
    remaining = list(scripts)

    def next_answer(body: dict[str, Any]) -> Script:
        remaining.append(remaining.pop(0))
        return remaining[-1]

    return next_answer
