"""A real proxy (uvicorn, a socket) in front of scripted instances, without etcd: the view is given by the test."""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp
import pytest
import uvicorn
from quart import Quart

from proxy.app import create_app
from proxy.exchange.gateway import Gateway
from proxy.routing.fleet import View
from proxy.server import uvicorn_config
from proxy.settings import ProxySettings
from stack.configuration.environment import load
from tests.unit.proxy.scripted import Script, ScriptedServer

PATIENCE_S = 10.0


class GivenView:
    """Stands in for discovery: one view, published at the start."""

    def __init__(self, view: View, publish: Callable[[View], None]) -> None:
        self._view = view
        self._publish = publish

    def start(self) -> None:
        self._publish(self._view)

    async def stop(self) -> None:
        pass


@dataclass
class RunningProxy:
    url: str
    app: Quart
    client: aiohttp.ClientSession

    @property
    def gateway(self) -> Gateway:
        gateway: Gateway = self.app.extensions["gateway"]
        return gateway

    def post(self, path: str, **arguments: Any) -> "aiohttp.client._RequestContextManager":
        return self.client.post(self.url + path, **arguments)

    async def status(self, path: str, **arguments: Any) -> int:
        async with self.post(path, **arguments) as answer:
            await answer.read()
            return answer.status

    async def metric(self, line: str) -> float:
        """The value of the series that /metrics shows as `line`."""
        async with self.client.get(self.url + "/metrics") as answer:
            for shown in (await answer.text()).splitlines():
                if shown.startswith(line + " "):
                    return float(shown.rsplit(" ", 1)[1])
        raise AssertionError(f"no {line} in /metrics")


@asynccontextmanager
async def running_proxy(view: View, **settings: Any) -> AsyncIterator[RunningProxy]:
    configured = load(ProxySettings, **{"proxy_local_prompt_tokens": 0, **settings})  # the tests' prompts are short
    app = create_app(configured, lambda _, publish: GivenView(view, publish))
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    config = uvicorn_config(app, configured)
    config.timeout_graceful_shutdown = 0
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve([listener]))
    timeout = aiohttp.ClientTimeout(total=PATIENCE_S)
    try:
        # For the bodies that tests write as bytes; aiohttp would call them something else.
        async with aiohttp.ClientSession(timeout=timeout, headers={"Content-Type": "application/json"}) as client:
            url = f"http://127.0.0.1:{port}"
            async with client.get(url + "/health") as answer:  # the socket listens already: this waits for the start
                assert answer.status == 200
            yield RunningProxy(url, app, client)
    finally:
        server.should_exit = True
        async with asyncio.timeout(PATIENCE_S):
            await serving


StartInstance = Callable[[Script], Awaitable[ScriptedServer]]


@dataclass
class Stack:
    producers: list[ScriptedServer]
    consumers: list[ScriptedServer]
    aggregated: list[ScriptedServer]
    proxy: RunningProxy


StartStack = Callable[..., Awaitable[Stack]]


@pytest.fixture
async def start_stack() -> AsyncIterator[StartStack]:
    """`await start_stack([producer scripts], [consumer scripts], proxy_…=…)`; names are p0, … and d0, …

    `aggregated`: scripts of aggregated instances, a0, …
    """
    async with AsyncExitStack() as stack:

        async def server(role: Any, name: str, script: Script) -> ScriptedServer:
            started = await ScriptedServer(role, name, script).start()
            stack.push_async_callback(started.stop)
            return started

        async def start(
            producers: Sequence[Script], consumers: Sequence[Script], aggregated: Sequence[Script] = (), **settings: Any
        ) -> Stack:
            prefill = [await server("prefill", f"p{number}", script) for number, script in enumerate(producers)]
            decode = [await server("decode", f"d{number}", script) for number, script in enumerate(consumers)]
            whole = [await server("aggregated", f"a{number}", script) for number, script in enumerate(aggregated)]
            view = View(tuple(each.record for each in prefill + decode + whole), revision=1)
            return Stack(prefill, decode, whole, await stack.enter_async_context(running_proxy(view, **settings)))

        yield start


async def eventually(holds: Callable[[], bool]) -> None:
    """Waits for what no event announces; fails after PATIENCE_S."""
    async with asyncio.timeout(PATIENCE_S):
        while not holds():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


def without_comment(stream: bytes) -> bytes:
    """A whole stream without the proxy's own last word."""
    events, separator, comment = stream.rpartition(b": pd ")
    assert separator, "no comment"
    assert comment.endswith(b"}\n\n")
    return events
