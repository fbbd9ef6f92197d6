"""What instances say of themselves: asked for in the background, shown as it was last known."""

import asyncio

import aiohttp
import pytest
from aiohttp import web

from proxy.instances import gauges
from proxy.instances.gauges import Gauges, read
from tests.unit.proxy.conftest import eventually
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


async def test_the_map_never_waits() -> None:
    server = Server()
    runner = web.ServerRunner(web.Server(server.handle))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0][:2]
    there = [instance("prefill", "p0", f"http://{host}:{port}"), instance("decode", "gone")]
    found = Gauges(lambda connector: aiohttp.ClientSession(connector=connector))
    try:
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
    finally:
        await found.close()
        await runner.cleanup()


async def test_of_many_those_are_asked_that_were_not_for_longest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gauges, "AT_MOST", 2)
    server = Server()
    runner = web.ServerRunner(web.Server(server.handle))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0][:2]
    there = [instance("prefill", f"p{number}", f"http://{host}:{port}") for number in range(5)]
    found = Gauges(lambda connector: aiohttp.ClientSession(connector=connector))
    try:
        for asked, known in (
            (2, {"p0", "p1"}),
            (4, {"p0", "p1", "p2", "p3"}),
            (6, {each.instance_id for each in there}),
        ):
            found._asked_at -= gauges.AGAIN_S
            found.known(there)
            await eventually(lambda: server.asked == asked and found._asking is not None and found._asking.done())  # noqa: B023
            assert set(found.known(there)) == known
    finally:
        await found.close()
        await runner.cleanup()
