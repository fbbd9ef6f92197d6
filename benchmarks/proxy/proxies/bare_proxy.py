"""The least that a proxy over both legs can be on aiohttp.

Two legs a request and the answer passed on as it comes; no checks, limits, metrics or log, one pair, no failures. It
shows how far a proxy of these libraries could get, and is none for users. Arguments: its port, both instances' URLs.
"""

import asyncio
import sys
import uuid
from collections.abc import AsyncIterator

import aiohttp
import uvloop
from aiohttp import web

from benchmarks.proxy.upstreams.upstream import LOOPBACK

COMPLETIONS = "/v1/completions"
SESSION = web.AppKey("session", aiohttp.ClientSession)
HEADERS = {"Content-Type": "application/json"}


def create_app(prefill_url: str, decode_url: str) -> web.Application:
    async def with_session(app: web.Application) -> AsyncIterator[None]:
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), auto_decompress=False) as session:
            app[SESSION] = session
            yield

    async def prefill(session: aiohttp.ClientSession, body: bytes) -> None:
        async with session.post(prefill_url + COMPLETIONS, data=body, headers=HEADERS) as answer:
            await answer.read()

    async def complete(request: web.Request) -> web.StreamResponse:
        # The client's object with members appended: nothing is parsed.
        opened = (await request.read()).rstrip()[:-1]
        session = request.app[SESSION]
        transfer = b'"kv_transfer_params": {"transfer_id": "%b"}}' % uuid.uuid4().hex.encode()
        first = asyncio.create_task(prefill(session, opened + b', "stream": false, "max_tokens": 1, ' + transfer))
        async with session.post(decode_url + COMPLETIONS, data=opened + b", " + transfer, headers=HEADERS) as answer:
            response = web.StreamResponse(headers={"Content-Type": answer.headers["Content-Type"]})
            await response.prepare(request)
            async for chunk in answer.content.iter_any():
                await response.write(chunk)
        await first
        await response.write_eof()
        return response

    app = web.Application(client_max_size=1 << 25)
    app.cleanup_ctx.append(with_session)
    app.router.add_post(COMPLETIONS, complete)
    return app


if __name__ == "__main__":
    uvloop.install()
    web.run_app(
        create_app(*sys.argv[2:4]), host=LOOPBACK, port=int(sys.argv[1]), access_log=None, print=None, backlog=1024
    )
