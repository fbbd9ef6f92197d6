"""The proxy on a socket, in a thread of its own, before instances that answer as a prompt tells them."""

import asyncio
import json
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

from aiohttp import web

from proxy.routing.fleet import View
from stack.instances.record import Instance
from tests.unit.proxy.conftest import RunningProxy, eventually, running_proxy
from tests.unit.proxy.scripted import DONE, MODEL, ScriptedServer, prefilled, token

START_LIMIT_S = 30
LOCAL_PROMPT_TOKENS = 40  # a prompt of one word stays with the consumer, one of three hundred is split
# In a prompt:
FAIL = "FAIL"  # the consumer answers 500
RECOMPUTE = "RECOMPUTE"  # its facts say that nothing came
MOVED: dict[str, Any] = {
    "bytes": 9_437_184,
    "early_bytes": 6_291_456,
    "tokens": 400,
    "pieces": 48,
    "seconds": 0.012,
    "exposed_seconds": 0.004,
    "transport": "tcp",
    "first_token": "consumer",
    "first_token_cause": "seed",
    # Of two chunks; before and after the prefill's end.
    "timeline": "[[[0,14,3145728,-8000,3000,15],[15,29,3145728,-4500,3500,15],[0,29,3145728,500,3500,1]],"
    "[[256,-11000,7500],[300,-3500,3500]]]",
}
METRICS = b"""pd_kv_free_blocks{engine="0",model_name="m"} 1200.0
pd_kv_blocks_held{engine="0",model_name="m"} 12.0
vllm:num_requests_running{engine="0"} 2.0
vllm:num_requests_waiting{engine="0"} 3.0
vllm:kv_cache_usage_perc{engine="0"} 0.25
vllm:cache_config_info{block_size="32",engine="0",num_gpu_blocks="1600"} 1.0
"""
WORDS = (" city", " of", " hills", " and", " fog", ".")
STEP_S = 0.01  # of a prefill and of a token; a transfer lasts as long as MOVED says


class Pair(NamedTuple):
    producer: ScriptedServer
    consumer: ScriptedServer


@dataclass
class ScriptedStack:
    """Of as many pairs as it has names; what it runs lives in another thread."""

    loop: asyncio.AbstractEventLoop
    proxy: RunningProxy

    @property
    def url(self) -> str:
        return self.proxy.url

    def complete(self, prompt: str, headers: dict[str, str] | None = None, **more: Any) -> dict[str, str]:
        """Sends one streamed completion. Returns: the answer's headers, by their names in small letters."""

        async def send() -> dict[str, str]:
            body = {"model": MODEL, "prompt": prompt, "stream": True, **more}
            async with self.proxy.post("/v1/completions", json=body, headers=headers) as answer:
                await answer.read()
                return {name.lower(): value for name, value in answer.headers.items()}

        return asyncio.run_coroutine_threadsafe(send(), self.loop).result(START_LIMIT_S)


@contextmanager
def scripted_stack(
    names: Sequence[tuple[str, str]] = (("prefill-0", "decode-0"),), others: Sequence[Instance] = (), **settings: Any
) -> Iterator[ScriptedStack]:
    """Args: names: of each pair's producer and consumer; others: instances of which only the record is there."""
    started: Future[ScriptedStack] = Future()
    thread = threading.Thread(target=lambda: asyncio.run(_serve(names, others, settings, started)))
    thread.start()
    stack = started.result(START_LIMIT_S)
    try:
        yield stack
    finally:
        stack.loop.call_soon_threadsafe(stack.proxy.app.extensions["end"].set)
        thread.join(START_LIMIT_S)


async def _serve(
    names: Sequence[tuple[str, str]],
    others: Sequence[Instance],
    settings: dict[str, Any],
    started: "Future[ScriptedStack]",
) -> None:
    try:
        async with AsyncExitStack() as stack:
            records: list[Instance] = []

            async def idle(producer: str) -> None:
                await eventually(lambda: proxy.gateway.fleet.outstanding(producer) == 0)

            for producer, consumer in names:
                script = _Consumer(producer, idle)
                for server in (
                    ScriptedServer("prefill", producer, _prefill),
                    ScriptedServer("decode", consumer, script),
                ):
                    server.metrics = METRICS
                    await server.start()
                    stack.push_async_callback(server.stop)
                    records.append(server.record.model_copy(update={"transports": ("tcp",)}))
            view = View((*records, *others), revision=1)
            configured = {"proxy_local_prompt_tokens": LOCAL_PROMPT_TOKENS, **settings}
            proxy = await stack.enter_async_context(running_proxy(view, **configured))
            end = proxy.app.extensions["end"] = asyncio.Event()
            started.set_result(ScriptedStack(asyncio.get_running_loop(), proxy))
            await end.wait()
    except BaseException as error:
        if not started.done():
            started.set_exception(error)
        raise


async def _prefill(request: web.Request) -> web.StreamResponse:
    await asyncio.sleep(STEP_S)
    return await prefilled()(request)


class _Consumer:
    """Answers once the producer has, as a real one does."""

    def __init__(self, producer: str, idle: Any) -> None:
        self._producer = producer
        self._idle = idle

    async def __call__(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        prompt = body.get("prompt") or json.dumps(body.get("messages"))
        if FAIL in prompt:
            return web.json_response({"error": {"message": "<b>it broke</b>", "type": "x", "code": 500}}, status=500)
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})
        if "kv_transfer_params" in body:
            await self._idle(self._producer)
            await asyncio.sleep(MOVED["exposed_seconds"])
            moved = MOVED | {"bytes": 0, "early_bytes": 0, "tokens": 0} if RECOMPUTE in prompt else MOVED
            response.headers["X-PD-Transfer-Facts"] = json.dumps(moved)
        if not body.get("stream"):
            return web.json_response({"choices": [{"index": 0, "text": "".join(WORDS)}]})
        await response.prepare(request)
        for word in WORDS:
            await asyncio.sleep(STEP_S)
            await response.write(_event(word, "messages" in body))
        await response.write(DONE)
        return response


def _event(word: str, chat: bool) -> bytes:
    if not chat:
        return token(word)
    chunk = {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "choices": [{"index": 0, "delta": {"content": word}}],
    }
    return b"data: " + json.dumps(chunk).encode() + b"\n\n"
