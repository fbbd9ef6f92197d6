"""From etcd to the view that requests are routed by: the whole fleet at a start, one instance that comes or goes."""

import asyncio
import time
from collections.abc import Callable

from benchmarks.errors import CannotStart
from benchmarks.fleet.records import fleet, record, register
from benchmarks.fleet.run import Run
from benchmarks.proxy.upstreams.answers import MODEL
from proxy.errors import NoInstance
from proxy.instances.discovery import Discovery
from proxy.request.prompt import Prompt
from proxy.routing.dispatch import SPLIT_ALL, Demand
from proxy.routing.fleet import Fleet, View
from stack import etcd
from stack.instances.record import Instance

PATIENCE_S = 30.0
PAUSE_S = 0.05  # between changes, so that each is seen for itself
FIRST_NEW = 20_000  # above all that are there


def measure(run: Run) -> None:
    """Adds a row to the table `discovery` for each size. Raises: CannotStart: a change was never seen."""
    for number in run.options.instances:
        run.deadline.left()
        instances = fleet(number, 8000)
        register(run.etcd, instances)
        size = sum(len(each.model_dump_json()) for each in instances)
        run.results.add("discovery", instances=number, bytes=size, **asyncio.run(_followed(run, number)))
        run.results.write()
        print(f"discovery: {number} instances done", flush=True)


class _Seen:
    """As the gateway does it: a view is taken over in the loop, and the next route goes by it."""

    def __init__(self) -> None:
        self.fleet = Fleet(SPLIT_ALL)
        self.updated_s: list[float] = []
        self.first_route_s: list[float] = []
        self._changed = asyncio.Event()

    def publish(self, view: View) -> None:
        began = time.perf_counter()
        self.fleet.update(view)
        self.updated_s.append(time.perf_counter() - began)
        began = time.perf_counter()
        try:
            self.fleet.route(Demand(MODEL, Prompt(1000)))
            self.first_route_s.append(time.perf_counter() - began)
        except NoInstance:
            pass
        self._changed.set()

    async def until(self, there: bool, *instance_ids: str) -> float:
        """When all of these were in the view, or none."""
        try:
            async with asyncio.timeout(PATIENCE_S):
                while any((name in self._names()) != there for name in instance_ids):
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError as error:
            raise CannotStart(f"{instance_ids[0]}: not seen within {PATIENCE_S:g} s") from error
        return time.perf_counter()

    def _names(self) -> set[str]:
        return {each.instance_id for each in self.fleet.view.instances}


async def _followed(run: Run, number: int) -> dict[str, float | list[float]]:
    seen = _Seen()
    discovery = Discovery(run.etcd, seen.publish)
    began = time.perf_counter()
    discovery.start()
    try:
        whole_s = await seen.until(True, *(each.instance_id for each in fleet(number, 8000))) - began
        come_s, gone_s = [], []
        with etcd.connect(run.etcd) as client:
            for change in range(run.options.changes):
                new = record("decode", FIRST_NEW + change, 8000)
                come_s.append(await _seen_after(seen, True, new, client.put, new.key, new.model_dump_json()))
                gone_s.append(await _seen_after(seen, False, new, client.delete, new.key))
        return {
            "whole_s": whole_s,
            "come_s": come_s,
            "gone_s": gone_s,
            "updated_s": seen.updated_s[1:],
            "first_route_s": seen.first_route_s[1:],
        }
    finally:
        await discovery.stop()


async def _seen_after(
    seen: _Seen, there: bool, instance: Instance, change: Callable[..., object], *arguments: str
) -> float:
    await asyncio.sleep(PAUSE_S)
    began = time.perf_counter()
    written = asyncio.create_task(asyncio.to_thread(change, *arguments))
    at = await seen.until(there, instance.instance_id)
    await written
    return at - began
