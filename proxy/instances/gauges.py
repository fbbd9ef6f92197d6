"""What only the instances know of themselves: free blocks, blocks that wait for a transfer, requests that wait.

They are asked for their `/metrics`, and only while somebody looks at the map or at the proxy's own. Neither waits
for it: they show what was known last, the map also how old that is. An instance that computes may not answer for
seconds. Of many instances those are asked that were not for longest, so that a large fleet costs no more.
"""

import asyncio
import contextlib
import heapq
import re
import time
from collections.abc import Callable, Iterable
from typing import Any

import aiohttp

from stack.instances.record import Instance

AGAIN_S = 5.0  # after the last question
LIMIT_S = 4.0
LATELY_S = 20.0  # Prometheus comes every 15 s
AT_ONCE = 8  # instances
AT_MOST = 128  # at each time: a page is 100 KB, and takes a millisecond to read
MOST_BYTES = 4 * 1024 * 1024
GAUGES = {
    "pd_kv_free_blocks": "free_blocks",
    "pd_kv_blocks_held": "blocks_held",
    "vllm:num_requests_running": "running",
    "vllm:num_requests_waiting": "waiting",
    "vllm:kv_cache_usage_perc": "cache_usage",
}
_LINE = re.compile(rf"^({'|'.join(GAUGES)})(?:{{([^}}\n]*)}})? (\S+)$".encode(), re.MULTILINE)
_BLOCKS = re.compile(rb'^vllm:cache_config_info{([^}\n]*num_gpu_blocks="(\d+)"[^}\n]*)}', re.MULTILINE)

Json = dict[str, Any]


class Gauges:
    """Args: open_session: to instances, with the key that they want."""

    def __init__(self, open_session: Callable[[aiohttp.TCPConnector], aiohttp.ClientSession]) -> None:
        self._open_session = open_session
        self._known: dict[str, tuple[float, Json]] = {}  # by instance id, with when that was
        self._asked_at = float("-inf")
        self._last_asked: dict[str, float] = {}  # by instance id
        self._asking: asyncio.Task[None] | None = None

    def known(self, instances: Iterable[Instance]) -> dict[str, Json]:
        """By instance id, without those that have never answered. Begins to ask again where that is due."""
        now = time.monotonic()
        there = list(instances)
        if (self._asking is None or self._asking.done()) and now - self._asked_at >= AGAIN_S:
            self._asked_at = now
            self._known = {each.instance_id: self._known[each.instance_id] for each in there if self._has(each)}
            last = {each.instance_id: self._last_asked.get(each.instance_id, 0.0) for each in there}
            due = heapq.nsmallest(AT_MOST, there, key=lambda each: last[each.instance_id])
            self._last_asked = last | {each.instance_id: now for each in due}
            self._asking = asyncio.get_running_loop().create_task(self._ask(due))
        return {
            each.instance_id: found | {"age_s": round(now - at, 1)}
            for each in there
            if self._has(each)
            for at, found in [self._known[each.instance_id]]
        }

    def lately(self, instances: Iterable[Instance]) -> list[Json]:
        """What those said that were asked within LATELY_S; nobody is asked for it."""
        since = time.monotonic() - LATELY_S
        known = (self._known.get(each.instance_id) for each in instances)
        return [found[1] for found in known if found is not None and found[0] >= since]

    async def close(self) -> None:
        if self._asking is not None:
            self._asking.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._asking

    def _has(self, instance: Instance) -> bool:
        return instance.instance_id in self._known

    async def _ask(self, instances: list[Instance]) -> None:
        servers: dict[str, list[Instance]] = {}  # each answers for all of its data-parallel engines at once
        for each in instances:
            servers.setdefault(each.url, []).append(each)
        async with self._open_session(aiohttp.TCPConnector(limit=AT_ONCE)) as session:
            await asyncio.gather(*(self._read(session, url, engines) for url, engines in servers.items()))

    async def _read(self, session: aiohttp.ClientSession, url: str, engines: list[Instance]) -> None:
        with contextlib.suppress(aiohttp.ClientError, TimeoutError, ValueError):  # it is shown as it was
            async with (
                asyncio.timeout(LIMIT_S),
                session.get(url + "/metrics", allow_redirects=False) as answer,
            ):
                if answer.status == 200:
                    text = bytearray()
                    async for chunk in answer.content.iter_any():
                        text += chunk
                        if len(text) > MOST_BYTES:
                            return
                    for each in engines:
                        self._known[each.instance_id] = time.monotonic(), read(bytes(text), each.data_parallel_rank)


def read(metrics: bytes, rank: int | None = None) -> Json:
    """Of Prometheus' text: of the data-parallel engine of that rank, or sums over the engines of one server, the
    cache's use as their mean."""
    ours = b"" if rank is None else f'engine="{rank}"'.encode()
    found: dict[str, list[float]] = {}
    for name, labels, value in _LINE.findall(metrics):
        if ours in labels:
            found.setdefault(GAUGES[name.decode()], []).append(float(value))
    told = {name: sum(values) / (len(values) if name == "cache_usage" else 1) for name, values in found.items()}
    if blocks := [int(each) for labels, each in _BLOCKS.findall(metrics) if ours in labels]:
        told["blocks"] = sum(blocks)
    return told
