"""Discovery at work on a real etcd, and what it has published."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from proxy.instances.discovery import REGISTRATION_GRACE_S, Discovery
from proxy.routing.fleet import View
from stack.instances.record import Instance
from tests.unit.proxy.scripted import instance

PATIENCE_S = 30.0
P0, D0 = instance("prefill", "p0", "http://a:1"), instance("decode", "d0", "http://b:1")


class Views:
    """All views, newest last; `until` waits for the next that fits."""

    def __init__(self) -> None:
        self.all: list[View] = []
        self._news = asyncio.Event()

    def publish(self, view: View) -> None:
        self.all.append(view)
        self._news.set()

    async def until(self, fits: Callable[[View], bool]) -> View:
        async with asyncio.timeout(PATIENCE_S):
            while not self.all or not fits(self.all[-1]):
                self._news.clear()
                await self._news.wait()
        return self.all[-1]


def names(view: View) -> set[str]:
    return {each.instance_id for each in view.instances}


def is_stale(view: View) -> bool:
    return view.stale_since is not None


@asynccontextmanager
async def following(endpoint: str, grace_s: float = REGISTRATION_GRACE_S) -> AsyncIterator[Views]:
    views = Views()
    discovery = Discovery(endpoint, views.publish, grace_s)
    discovery.start()
    try:
        yield views
    finally:
        async with asyncio.timeout(PATIENCE_S):
            await discovery.stop()


def put(registry: Any, record: Instance, lease: Any = None) -> None:
    registry.put(record.key, record.model_dump_json(), lease=lease)
