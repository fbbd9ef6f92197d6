"""Discovery through everything that etcd and the network to it do: instances that serve are served."""

import asyncio
import signal
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import grpc
import pytest

from proxy.instances.etcd_watch import EtcdWatch
from stack import etcd
from tests.cuttable_link import CuttableLink
from tests.etcd_process import EtcdProcess
from tests.unit.proxy.instances.followed import D0, P0, Views, following, is_stale, names, put
from tests.unit.proxy.scripted import instance

BOTH = {"p0", "d0"}
SHORT_GRACE_S = 1.0


@pytest.fixture
def link(etcd_server: EtcdProcess) -> Iterator[CuttableLink]:
    with CuttableLink(etcd_server.endpoint) as link:
        yield link


async def see_both(views: Views, registry: Any, lease: Any = None) -> None:
    for record in (P0, D0):
        put(registry, record, lease)
    await views.until(lambda view: names(view) == BOTH)


async def register_again(views: Views, registry: Any) -> None:
    """One after the other; the view is stale until the last has come."""
    put(registry, P0)
    waiting = await views.until(lambda view: view.stale_reason is not None and "p0" not in view.stale_reason)
    assert waiting.stale_reason == "not registered again since etcd is back: d0"
    put(registry, D0)
    assert names(await views.until(lambda view: not is_stale(view))) == BOTH


def never_missing(views: Views) -> bool:
    """Whether no instance was out of the view after it was in it."""
    seen = [names(view) for view in views.all]
    return all(earlier <= later for earlier, later in pairwise(seen))


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
async def test_etcd_restarts(etcd_server: EtcdProcess, registry: Any, how: signal.Signals) -> None:
    async with following(etcd_server.endpoint) as views:
        await see_both(views, registry)
        etcd_server.stop(how)
        stale = await views.until(is_stale)
        assert names(stale) == BOTH
        assert stale.stale_reason

        await asyncio.to_thread(etcd_server.start)
        fresh = await views.until(lambda view: not is_stale(view))
        assert names(fresh) == BOTH
        assert fresh.stale_reason is None
        assert never_missing(views)


async def test_after_the_grace_instances_come_and_go_again(etcd_server: EtcdProcess, registry: Any) -> None:
    async with following(etcd_server.endpoint, SHORT_GRACE_S) as views:
        await see_both(views, registry)
        etcd_server.stop()
        await views.until(is_stale)
        await asyncio.to_thread(etcd_server.start)
        await views.until(lambda view: not is_stale(view))
        with etcd.connect(etcd_server.endpoint) as again:
            put(again, instance("decode", "d1"))
            await views.until(lambda view: names(view) == BOTH | {"d1"})
            again.delete(P0.key)
            await views.until(lambda view: names(view) == {"d0", "d1"} and not is_stale(view))


async def test_a_wiped_etcd(etcd_server: EtcdProcess, registry: Any) -> None:
    async with following(etcd_server.endpoint) as views:
        await see_both(views, registry)
        etcd_server.stop()
        stale = await views.until(is_stale)
        etcd_server.wipe()
        await asyncio.to_thread(etcd_server.start)
        back = await views.until(lambda view: "registered" in str(view.stale_reason))
        assert back.stale_reason == "not registered again since etcd is back: d0, p0"
        assert back.stale_since == stale.stale_since
        with etcd.connect(etcd_server.endpoint) as again:
            await register_again(views, again)
        assert never_missing(views)


async def test_who_does_not_register_again_is_gone_in_the_end(etcd_server: EtcdProcess, registry: Any) -> None:
    async with following(etcd_server.endpoint, SHORT_GRACE_S) as views:
        await see_both(views, registry)
        etcd_server.stop()
        await views.until(is_stale)
        etcd_server.wipe()
        await asyncio.to_thread(etcd_server.start)
        fresh = await views.until(lambda view: not is_stale(view))
        assert names(fresh) == set()


async def test_who_was_restarted_meanwhile_is_not_waited_for(etcd_server: EtcdProcess, registry: Any) -> None:
    """Another server has its URL."""
    successor = P0.model_copy(update={"instance_id": "p1", "started_at": P0.started_at + 1})
    async with following(etcd_server.endpoint) as views:
        await see_both(views, registry)
        etcd_server.stop()
        await views.until(is_stale)
        etcd_server.wipe()
        await asyncio.to_thread(etcd_server.start)
        with etcd.connect(etcd_server.endpoint) as again:
            put(again, successor)
            put(again, D0)
        fresh = await views.until(lambda view: not is_stale(view))
        assert {each.instance_id for each in fresh.usable} == {"p1", "d0"}


async def test_leases_end_during_a_silent_cut(etcd_server: EtcdProcess, registry: Any, link: CuttableLink) -> None:
    """Whoever was cut off could not renew."""
    async with following(link.endpoint) as views:
        await see_both(views, registry, registry.lease(1))
        link.cut()
        await until_leases_have_ended(registry)
        assert names(await views.until(is_stale)) == BOTH
        link.mend()
        await views.until(lambda view: "registered" in str(view.stale_reason))
        await register_again(views, registry)
        assert never_missing(views)


async def test_leases_end_while_etcd_stands_still(etcd_server: EtcdProcess, registry: Any) -> None:
    """It ends them when it goes on, at its own pace, on connections that never broke."""
    async with following(etcd_server.endpoint) as views:
        await see_both(views, registry, registry.lease(1))
        with etcd_server.frozen():
            assert names(await views.until(is_stale)) == BOTH
        await until_leases_have_ended(registry)
        await views.until(lambda view: "registered" in str(view.stale_reason))
        await register_again(views, registry)
        assert never_missing(views)


async def test_a_connection_that_is_dead_at_the_other_end_only(registry: Any, link: CuttableLink) -> None:
    async with following(link.endpoint) as views:
        await see_both(views, registry)
        link.cut()
        link.replace()
        put(registry, instance("decode", "d1"))
        await views.until(lambda view: names(view) == BOTH | {"d1"} and not is_stale(view))
        assert never_missing(views)


async def test_compaction_during_a_cut(registry: Any, link: CuttableLink) -> None:
    async with following(link.endpoint, SHORT_GRACE_S) as views:
        await see_both(views, registry)
        link.cut()
        await views.until(is_stale)
        change_and_compact(registry)
        registry.delete(D0.key)
        link.mend()
        await views.until(lambda view: names(view) == {"p0", "d9"} and not is_stale(view))


async def test_compaction_under_a_running_watch(etcd_server: EtcdProcess, registry: Any) -> None:
    async with following(etcd_server.endpoint) as views:
        await see_both(views, registry)
        change_and_compact(registry)
        registry.delete(P0.key)
        await views.until(lambda view: names(view) == {"d0", "d9"})
        assert not any(map(is_stale, views.all))


async def test_compaction_between_the_list_and_the_watch(
    etcd_server: EtcdProcess, registry: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """etcd refuses to tell from the list's revision on, which is then too old."""
    requests = EtcdWatch._requests

    def late(self: EtcdWatch, channel: grpc.Channel, create: Any) -> Iterator[Any]:
        monkeypatch.setattr(EtcdWatch, "_requests", requests)
        with etcd.connect(etcd_server.endpoint) as client:
            change_and_compact(client)
        yield from requests(self, channel, create)

    monkeypatch.setattr(EtcdWatch, "_requests", late)
    async with following(etcd_server.endpoint) as views:
        await views.until(lambda view: names(view) == {"d9"} and not is_stale(view))
        assert any("compacted" in str(view.stale_reason) for view in views.all)


def change_and_compact(registry: Any) -> None:
    """Of d1 to d9, which came and went, the last stays; what was before its coming is forgotten."""
    for number in range(1, 9):
        put(registry, instance("decode", f"d{number}"))
        registry.delete(instance("decode", f"d{number}").key)
    last = instance("decode", "d9")
    put(registry, last)
    _, metadata = registry.get(last.key)
    registry.compact(metadata.mod_revision)


async def until_leases_have_ended(registry: Any) -> None:
    while any(registry.get(record.key)[0] for record in (P0, D0)):  # noqa: ASYNC110
        await asyncio.sleep(0.05)
