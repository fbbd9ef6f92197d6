"""A producer and a consumer that answer by script."""

from collections.abc import AsyncIterator

import pytest

from tests.unit.proxy.scripted import ScriptedServer, prefilled, replies


@pytest.fixture
async def producer() -> AsyncIterator[ScriptedServer]:
    started = await ScriptedServer("prefill", "p0", prefilled()).start()
    yield started
    await started.stop()


@pytest.fixture
async def consumer() -> AsyncIterator[ScriptedServer]:
    started = await ScriptedServer("decode", "d0", replies(200, {"choices": [{"text": " city"}]})).start()
    yield started
    await started.stop()
