"""Servers for clients by hand."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pytest

from proxy.settings import ProxySettings
from stack.configuration.environment import load
from tests.unit.proxy.connection.by_hand import DEFAULTS, Server, StartServer, running_server


@pytest.fixture
async def start_server() -> AsyncIterator[StartServer]:
    """`await start_server(proxy_…=…)`: the whole proxy without instances, and `POST /wait`."""
    async with AsyncExitStack() as stack:

        async def start(**settings: Any) -> Server:
            return await stack.enter_async_context(running_server(load(ProxySettings, **(DEFAULTS | settings))))

        yield start
