"""Completion servers on loopback that answer as a vLLM of the given role would, and remember what they were asked."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from aiohttp.test_utils import TestServer

FACTS = {"bytes": 1000, "early_bytes": 900, "pieces": 3, "exposed_seconds": 0.002, "transport": "tcp"}


async def _at_once() -> None:
    return None


@dataclass
class ScriptedVllm:
    """`before` runs before each answer; `status` other than 200 is answered with an error."""

    cached_tokens: int = 0
    facts: dict[str, Any] | None = None
    status: int = 200
    before: Callable[[], Awaitable[object]] = _at_once
    first_token: int = 0  # of each stream; the next ones count on
    too_few: int = 0  # tokens that a stream lacks
    accepts: int = 0  # guesses of each answer's three
    asked: list[dict[str, Any]] = field(default_factory=list)
    ranks: list[str | None] = field(default_factory=list)  # what X-data-parallel-rank said, of each
    arrived: asyncio.Event = field(default_factory=asyncio.Event)

    async def answer(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.asked.append(body)
        self.ranks.append(request.headers.get("X-data-parallel-rank"))
        self.arrived.set()
        await self.before()
        if self.status != 200:
            return web.json_response({"error": {"message": "scripted"}}, status=self.status)
        if body.get("stream"):
            return await self._stream(request, body["max_tokens"] - self.too_few)
        return web.json_response({"choices": [{"text": "x"}]})

    async def _stream(self, request: web.Request, tokens: int) -> web.StreamResponse:
        told = {"first_token": "producer"}  # what is known before the transfer has ended
        facts = (
            {"X-PD-Transfer-Facts": json.dumps(told)} if self.facts and "X-PD-Transfer-Id" in request.headers else {}
        )
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream", **facts})
        await response.prepare(request)
        for token in range(tokens):
            if facts and token == 1:
                await response.write(f": pd-transfer {json.dumps(told | (self.facts or {}))}\n\n".encode())
            event = {"choices": [{"index": 0, "text": "", "token_ids": [self.first_token + token]}]}
            await response.write(f"data: {json.dumps(event)}\n\n".encode())
        await response.write(b'data: {"choices": [{"index": 0, "text": "", "finish_reason": "length"}]}\n\n')
        usage = {"prompt_tokens_details": {"cached_tokens": self.cached_tokens} if self.cached_tokens else None}
        await response.write(f"data: {json.dumps({'choices': [], 'usage': usage})}\n\n".encode())
        await response.write(b"data: [DONE]\n\n")
        return response

    async def metrics(self, request: web.Request) -> web.Response:
        """As if each answer had taken one draft, in an engine each for the first and for all the others."""
        lines = []
        for engine, answers in enumerate((self.asked[:1], self.asked[1:])):
            for name, each in (("drafts", 1), ("draft_tokens", 3), ("accepted_tokens", self.accepts)):
                lines.append(f'vllm:spec_decode_num_{name}_total{{engine="{engine}"}} {float(each * len(answers))}')
        return web.Response(text="\n".join(lines) + "\n")


async def serve(vllm: ScriptedVllm) -> TestServer:
    app = web.Application()
    app.router.add_post("/v1/completions", vllm.answer)
    app.router.add_get("/metrics", vllm.metrics)
    server = TestServer(app)
    await server.start_server()
    return server


def url(server: TestServer) -> str:
    return str(server.make_url("/")).rstrip("/")
