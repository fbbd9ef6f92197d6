"""vLLM servers that do what a test tells them: real sockets, scripted answers, everything received is kept."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from multidict import CIMultiDictProxy

from stack.instances.record import Instance, Role

MODEL = "SmolLM2-135M-Instruct"
DONE = b"data: [DONE]\n\n"
Script = Callable[[web.Request], Awaitable[web.StreamResponse]]


def instance(role: Role, instance_id: str, url: str = "http://127.0.0.1:1", **changes: Any) -> Instance:
    fields: dict[str, Any] = {
        "role": role,
        "instance_id": instance_id,
        "url": url,
        "served_models": (MODEL,),
        "model": MODEL,
        "max_model_len": 4096,
        "block_size": 32,
        "dtype": "float32",
        "tensor_parallel_size": 1,
        "fingerprint": "same",
        "kv_transfer": {"control": f"tcp://{instance_id}:1"},
        "vllm_version": "0.32.0",
        "connector_version": "0.1.0",
        "started_at": 1000.0,
    }
    return Instance(**(fields | changes))


@dataclass(frozen=True)
class Received:
    path: str
    headers: CIMultiDictProxy[str]
    raw: bytes

    @property
    def body(self) -> dict[str, Any]:
        body: dict[str, Any] = json.loads(self.raw)
        return body


@dataclass
class ScriptedServer:
    """`record` is what it would keep in etcd; `cancelled` is set when a peer closes before the script has ended.

    The proxy's own questions are kept in `asked`, not in `received`: /health has its own script, what is posted has the
    same as clients' requests.
    """

    role: Role
    name: str
    script: Script
    record: Instance = field(init=False)
    health: Script = field(default_factory=lambda: replies(200, b""))
    metrics: bytes = b""
    received: list[Received] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    arrived: asyncio.Event = field(default_factory=asyncio.Event)
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)
    _runner: web.AppRunner = field(init=False)

    async def start(self) -> "ScriptedServer":
        app = web.Application(client_max_size=64 * 1024 * 1024)
        app.router.add_get("/health", self._answer_health)
        app.router.add_get("/metrics", self._answer_metrics)
        app.router.add_post("/{path:.*}", self._answer)
        self._runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0, access_log=None)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        host, port = self._runner.addresses[0][:2]
        self.record = instance(self.role, self.name, f"http://{host}:{port}")
        return self

    async def stop(self) -> None:
        for site in tuple(self._runner.sites):
            await site.stop()
        await asyncio.sleep(
            0.01
        )  # what was accepted a moment ago is a connection by then, and is closed with the others
        await self._runner.cleanup()

    async def _answer_metrics(self, request: web.Request) -> web.StreamResponse:
        return web.Response(body=self.metrics)

    async def _answer_health(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(request.path)
        return await self.health(request)

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        if request.headers.get("X-Request-Id", "").startswith("proxy-check-"):
            self.asked.append(request.path)
            return await self.script(request)
        self.received.append(Received(request.path, request.headers, await request.read()))
        self.arrived.set()
        try:
            return await self.script(request)
        except (asyncio.CancelledError, ConnectionError):
            self.cancelled.set()
            raise


def replies(status: int, content: Any, **headers: str) -> Script:
    async def script(request: web.Request) -> web.StreamResponse:
        if isinstance(content, bytes):
            return web.Response(status=status, body=content, headers=headers)
        return web.json_response(content, status=status, headers=headers)

    return script


def error(status: int, message: str) -> Script:
    """As vLLM words it: its own type names, a number as code."""
    return replies(
        status, {"error": {"message": message, "type": "BadRequestError", "param": "prompt", "code": status}}
    )


def prefilled() -> Script:
    return replies(200, {"id": "cmpl-1", "choices": [{"text": " city"}]})


def streams(*steps: bytes | asyncio.Event, end: Script | None = None) -> Script:
    """Sends each chunk, or waits for each event, in turn as server-sent events; ends cleanly or as `end` says."""

    async def script(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})
        await response.prepare(request)
        for step in steps:
            if isinstance(step, bytes):
                await response.write(step)
            else:
                await step.wait()
        return response if end is None else await end(request)

    return script


def hangs(until: asyncio.Event | None = None, then: Script | None = None) -> Script:
    async def script(request: web.Request) -> web.StreamResponse:
        await (until or asyncio.Event()).wait()
        if then is None:
            raise RuntimeError("nothing to do after the event")
        return await then(request)

    return script


def breaks() -> Script:
    """Resets the connection."""

    async def script(request: web.Request) -> web.StreamResponse:
        transport = request.transport
        assert transport is not None
        transport.abort()
        return web.Response()

    return script


def data(content: Any) -> bytes:
    return b"data: " + json.dumps(content).encode() + b"\n\n"


def token(text: str) -> bytes:
    return data({"id": "cmpl-1", "object": "text_completion", "choices": [{"index": 0, "text": text}]})
