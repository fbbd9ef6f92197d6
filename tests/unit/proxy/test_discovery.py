"""Discovery against a real etcd: joins, leaves, ended leases, restarts."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from proxy.discovery import Discovery
from proxy.fleet import View
from stack import etcd
from stack.instances import Instance
from tests.etcd_process import EtcdProcess
from tests.unit.proxy.scripted import instance

PATIENCE_S = 10.0
P0, D0 = instance("prefill", "p0", "http://a:1"), instance("decode", "d0", "http://b:1")


class Views:
    """What discovery published, newest last; `until` waits for the next that fits."""

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


@pytest.fixture
def registry(etcd_server: EtcdProcess) -> Iterator[Any]:
    with etcd.connect(etcd_server.endpoint) as client:
        yield client


@asynccontextmanager
async def following(etcd_server: EtcdProcess) -> AsyncIterator[Views]:
    views = Views()
    discovery = Discovery(etcd_server.endpoint, views.publish)
    discovery.start()
    try:
        yield views
    finally:
        async with asyncio.timeout(PATIENCE_S):
            await discovery.stop()


def put(registry: Any, record: Instance, lease: Any = None) -> None:
    registry.put(record.key, record.model_dump_json(), lease=lease)


def put_all(registry: Any, records: list[Instance]) -> None:
    for record in records:
        put(registry, record)


async def test_instances_come_and_go(etcd_server: EtcdProcess, registry: Any) -> None:
    put(registry, P0)
    async with following(etcd_server) as views:
        assert (await views.until(lambda view: view.known)).instances == (P0,)
        put(registry, D0)
        await views.until(lambda view: names(view) == {"p0", "d0"})
        put(registry, P0.model_copy(update={"url": "http://c:1"}))
        await views.until(lambda view: "http://c:1" in {each.url for each in view.instances})
        registry.delete(P0.key)
        await views.until(lambda view: names(view) == {"d0"})


async def test_an_instance_goes_when_its_lease_ends(etcd_server: EtcdProcess, registry: Any) -> None:
    put(registry, P0)
    put(registry, D0, registry.lease(1))
    async with following(etcd_server) as views:
        await views.until(lambda view: names(view) == {"p0", "d0"})
        await views.until(lambda view: names(view) == {"p0"})


async def test_no_event_is_lost_while_the_watch_begins(etcd_server: EtcdProcess, registry: Any) -> None:
    many = [instance("decode", f"d{number}") for number in range(100)]

    async with following(etcd_server) as views:
        await asyncio.to_thread(put_all, registry, many)
        await views.until(lambda view: names(view) == {each.instance_id for each in many})


async def test_the_last_view_is_served_while_etcd_is_away(etcd_server: EtcdProcess, registry: Any) -> None:
    put(registry, P0)
    async with following(etcd_server) as views:
        await views.until(lambda view: names(view) == {"p0"})
        etcd_server.stop()
        stale = await views.until(lambda view: view.stale_since is not None)
        assert names(stale) == {"p0"}

        await asyncio.to_thread(etcd_server.start)
        fresh = await views.until(lambda view: view.stale_since is None)
        assert names(fresh) == {"p0"}
        with etcd.connect(etcd_server.endpoint) as again:
            put(again, D0)
            await views.until(lambda view: names(view) == {"p0", "d0"})
            again.delete(P0.key)
            await views.until(lambda view: names(view) == {"d0"})
    assert all(names(view) for view in views.all)  # never an empty view in between


async def test_what_changed_while_etcd_was_unreachable_is_seen(etcd_server: EtcdProcess, registry: Any) -> None:
    """The lease ends while etcd is away: after it is back it is not served for ever."""
    put(registry, P0)
    put(registry, D0, registry.lease(1))
    async with following(etcd_server) as views:
        await views.until(lambda view: names(view) == {"p0", "d0"})
        etcd_server.stop()
        await views.until(lambda view: view.stale_since is not None)
        await asyncio.to_thread(etcd_server.start)
        await views.until(lambda view: names(view) == {"p0"})


async def test_etcd_may_come_later(tmp_path: Path) -> None:
    etcd_server = EtcdProcess(tmp_path)
    async with following(etcd_server) as views:
        await views.until(lambda view: view.stale_since is not None)
        assert not views.all[-1].known
        await asyncio.to_thread(etcd_server.start)
        try:
            await views.until(lambda view: view.known and view.stale_since is None)
        finally:
            etcd_server.stop()


async def test_it_can_be_stopped_while_etcd_is_away(tmp_path: Path) -> None:
    async with following(EtcdProcess(tmp_path)) as views:
        await views.until(lambda view: view.stale_since is not None)
