"""The bare proxy: both legs get the client's request, and the client the consumer's answer."""

import asyncio
import json
from typing import Any

from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from benchmarks.proxy.proxies.bare_proxy import COMPLETIONS, create_app


async def _exchange() -> tuple[str, list[dict[str, Any]]]:
    legs: list[dict[str, Any]] = []

    async def answer(request: web.Request) -> web.Response:
        legs.append(json.loads(await request.read()))
        return web.Response(text="data: [DONE]\n\n", content_type="text/event-stream")

    vllm = web.Application()
    vllm.router.add_post(COMPLETIONS, answer)
    async with TestServer(vllm) as server:
        url = str(server.make_url("")).rstrip("/")
        async with TestClient(TestServer(create_app(url, url))) as client:
            response = await client.post(COMPLETIONS, data='{"prompt": "a", "max_tokens": 7, "stream": true} ')
            assert response.content_type == "text/event-stream"
            return await response.text(), legs


def test_both_legs_get_the_request_and_the_client_the_answer() -> None:
    text, legs = asyncio.run(_exchange())
    assert text == "data: [DONE]\n\n"
    prefill, decode = sorted(legs, key=lambda leg: int(leg["max_tokens"]))
    assert (prefill["prompt"], prefill["max_tokens"], prefill["stream"]) == ("a", 1, False)
    assert (decode["prompt"], decode["max_tokens"], decode["stream"]) == ("a", 7, True)
    assert prefill["kv_transfer_params"] == decode["kv_transfer_params"]
