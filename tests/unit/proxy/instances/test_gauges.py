"""What instances say of themselves: asked for in the background, shown as it was last known."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import pytest
from aiohttp import web

from proxy.instances import gauges
from proxy.instances.gauges import Gauges, read
from tests.unit.proxy.conftest import eventually
from tests.unit.proxy.instances import test_engines as records
from tests.unit.proxy.scripted import instance

METRICS = b"""# HELP pd_kv_free_blocks Free blocks
# TYPE pd_kv_free_blocks gauge
pd_kv_free_blocks{engine="0",model_name="m"} 700.0
pd_kv_free_blocks{engine="1",model_name="m"} 11.0
pd_kv_free_blocks_created{engine="0"} 1.0
vllm:num_requests_running{engine="0"} 2.0
vllm:num_requests_waiting{engine="0"} 3.0
vllm:kv_cache_usage_perc{engine="0"} 0.5
vllm:kv_cache_usage_perc{engine="1"} 0.25
vllm:cache_config_info{block_size="32",engine="0",num_gpu_blocks="800",x="y"} 1.0
vllm:cache_config_info{block_size="32",engine="1",num_gpu_blocks="800",x="y"} 1.0
"""
READ = {"free_blocks": 711.0, "running": 2.0, "waiting": 3.0, "cache_usage": 0.375, "blocks": 1600}


def test_they_are_read_from_prometheus_text() -> None:
    assert read(METRICS) == READ
    assert read(b"") == read(b"<html>pd_kv_free_blocks 5") == {}


def test_an_engine_has_its_own() -> None:
    assert read(METRICS, 0) == {"free_blocks": 700, "running": 2, "waiting": 3, "cache_usage": 0.5, "blocks": 800}
    assert read(METRICS, 1) == {"free_blocks": 11, "cache_usage": 0.25, "blocks": 800}
    assert read(METRICS, 11) == {}


class Server:
    """Instances at one address, of which `answer` makes what they say."""

    def __init__(self) -> None:
        self.asked = 0
        self.answer = METRICS
        self.go_on = asyncio.Event()
        self.go_on.set()

    async def handle(self, request: web.BaseRequest) -> web.Response:
        assert request.path == "/metrics"
        self.asked += 1
        await self.go_on.wait()
        return web.Response(body=self.answer)

    @asynccontextmanager
    async def asked_by(self) -> AsyncIterator[tuple[str, Gauges]]:
        """Its address, and gauges that ask it."""
        runner = web.ServerRunner(web.Server(self.handle))
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        host, port = runner.addresses[0][:2]
        found = Gauges(lambda connector: aiohttp.ClientSession(connector=connector))
        try:
            yield f"http://{host}:{port}", found
        finally:
            await found.close()
            await runner.cleanup()


async def test_a_server_is_asked_once_for_all_of_its_engines() -> None:
    server = Server()
    async with server.asked_by() as (url, found):
        there = records.server("prefill", "p", url, range(2)).by_engine()
        found.known(there)
        await eventually(lambda: len(found.known(there)) == 2)
        assert [found.known(there)[f"p_dp{rank}"]["free_blocks"] for rank in range(2)] == [700, 11]
        assert server.asked == 1


async def test_the_map_never_waits() -> None:
    server = Server()
    async with server.asked_by() as (url, found):
        there = [instance("prefill", "p0", url), instance("decode", "gone")]
        server.go_on.clear()
        assert found.known(there) == {}
        await eventually(lambda: server.asked == 1)
        assert found.known(there) == {}  # and asks once only
        server.go_on.set()
        await eventually(lambda: found.known(there) != {})
        (known,) = found.known(there).values()
        assert known.pop("age_s") >= 0
        assert known == READ
        assert server.asked == 1
        found._asked_at -= gauges.AGAIN_S
        server.answer = b"x" * (gauges.MOST_BYTES + 1)
        found.known(there)
        await eventually(lambda: server.asked == 2)
        assert set(found.known(there)) == {"p0"}  # as it was
        assert found.known(there[1:]) == {}


async def test_of_many_those_are_asked_that_were_not_for_longest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gauges, "AT_MOST", 2)
    server = Server()
    async with server.asked_by() as (url, found):
        there = [instance("prefill", f"p{number}", url) for number in range(5)]
        for asked, known in (
            (1, {"p0", "p1"}),  # they are of one server, which is asked once for both
            (2, {"p0", "p1", "p2", "p3"}),
            (3, {each.instance_id for each in there}),
        ):
            found._asked_at -= gauges.AGAIN_S
            found.known(there)
            await eventually(lambda: server.asked == asked and found._asking is not None and found._asking.done())  # noqa: B023
            assert set(found.known(there)) == known
