"""Discovery against a real etcd: joins, leaves, ended leases."""

import asyncio
from pathlib import Path
from typing import Any

from stack.instances.record import Instance
from tests.etcd_process import EtcdProcess
from tests.unit.proxy.instances.followed import D0, P0, following, names, put
from tests.unit.proxy.scripted import instance


def put_all(registry: Any, records: list[Instance]) -> None:
    for record in records:
        put(registry, record)


async def test_instances_come_and_go(etcd_server: EtcdProcess, registry: Any) -> None:
    put(registry, P0)
    async with following(etcd_server.endpoint) as views:
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
    async with following(etcd_server.endpoint) as views:
        await views.until(lambda view: names(view) == {"p0", "d0"})
        await views.until(lambda view: names(view) == {"p0"})


async def test_no_event_is_lost_while_the_watch_begins(etcd_server: EtcdProcess, registry: Any) -> None:
    many = [instance("decode", f"d{number}") for number in range(100)]

    async with following(etcd_server.endpoint) as views:
        await asyncio.to_thread(put_all, registry, many)
        await views.until(lambda view: names(view) == {each.instance_id for each in many})


async def test_a_list_may_be_long(etcd_server: EtcdProcess, registry: Any) -> None:
    many = [instance("decode", f"d{number}", kv_transfer={"filler": "x" * 1_000_000}) for number in range(5)]
    put_all(registry, many)
    async with following(etcd_server.endpoint) as views:
        await views.until(lambda view: names(view) == {each.instance_id for each in many})


async def test_etcd_may_come_later(tmp_path: Path) -> None:
    etcd_server = EtcdProcess(tmp_path)
    async with following(etcd_server.endpoint) as views:
        await views.until(lambda view: view.stale_since is not None)
        assert not views.all[-1].known
        await asyncio.to_thread(etcd_server.start)
        try:
            await views.until(lambda view: view.known and view.stale_since is None)
        finally:
            etcd_server.stop()


async def test_it_can_be_stopped_while_etcd_is_away(tmp_path: Path) -> None:
    async with following(EtcdProcess(tmp_path).endpoint) as views:
        await views.until(lambda view: view.stale_since is not None)
