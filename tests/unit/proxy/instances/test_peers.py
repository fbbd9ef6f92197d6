"""Several proxies before the same instances: each routes by what all have in hand."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web

from proxy.instances import peers
from proxy.instances.peers import Peers, Teller
from proxy.request.prompt import Prompt
from proxy.routing.dispatch import Demand, Load
from proxy.routing.fleet import Fleet, View
from proxy.settings import ProxySettings
from stack.configuration.environment import ConfigError, load
from tests.unit.proxy.conftest import StartStack, eventually, running_proxy
from tests.unit.proxy.scripted import DONE, MODEL, ScriptedServer, hangs, instance, prefilled, streams, token

STREAM = {"model": MODEL, "prompt": "San Francisco is a", "stream": True}


class Peer:
    """Another proxy, of which `lines` makes what it tells."""

    def __init__(self, *lines: bytes) -> None:
        self.lines = list(lines)
        self.asked = 0
        self.end = asyncio.Event()

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        self.asked += 1
        response = web.StreamResponse()
        await response.prepare(request)
        for line in self.lines:
            await response.write(line)
        await self.end.wait()
        return response


@asynccontextmanager
async def followed(*others: Peer) -> AsyncIterator[list[Mapping[str, Load]]]:
    """Yields what was taken, of a proxy whose own id is `own`."""
    runners, names = [], []
    for each in others:
        runner = web.ServerRunner(web.Server(each.handle))
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        runners.append(runner)
        names.append(runner.addresses[0][:2])
    taken: list[Mapping[str, Load]] = []
    following = Peers(names, "own", taken.append)
    following.start()
    try:
        yield taken
    finally:
        await following.close()
        for each in others:
            each.end.set()
        for runner in runners:
            await runner.cleanup()


async def test_what_several_have_adds_up_and_its_own_does_not() -> None:
    one = Peer(
        b'{"proxy": "a", "loads": {"p0": [2, 100, 1], "p1": [1, 7, 0]}}\n',
        b'{"proxy": "a", "loads": {"p1": [0, 0, 0]}}\n',
    )
    async with followed(
        one,
        Peer(b'{"proxy": "b", "loads": {"p0": [1, 10, 0]}}\n'),
        Peer(b'{"proxy": "b", "loads": {"p0": [1, 10, 0]}}\n'),  # at another address
        Peer(b'{"proxy": "own", "loads": {"p0": [9, 900, 0]}}\n'),
    ) as taken:
        await eventually(lambda: bool(taken) and taken[-1] == {"p0": Load(3, 0, 110, 1)})
        one.end.set()
        await eventually(lambda: taken[-1] == {"p0": Load(1, 0, 10, 0)})


@pytest.mark.parametrize("line", [b"no JSON\n", b'{"proxy": "a", "loads": {"p0": "much"}}\n', b"[" * 2000 + b"\n"])
async def test_what_cannot_be_read_counts_as_nothing(line: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "AGAIN_S", 0.01)
    broken = Peer(b'{"proxy": "a", "loads": {"p0": [1, 10, 0]}}\n', line)
    async with followed(broken) as taken:
        await eventually(lambda: broken.asked > 2)  # and it is asked again
        assert taken == [] or taken[-1] in ({}, {"p0": Load(1, 0, 10, 0)})


async def test_lines_tell_what_has_changed() -> None:
    loads: dict[str, Load] = {"p0": Load(1, 3, 10, 0), "p1": Load(2, 4, 20, 1)}
    ended = False
    told = Teller("own", lambda: loads, lambda: ended).lines()
    assert await anext(told) == b'{"proxy":"own","loads":{"p0":[1,10,0],"p1":[2,20,1]}}\n'
    loads = {"p1": Load(3, 9, 30, 1)}
    assert peers.Line.model_validate_json(await anext(told)).loads == {"p0": (0, 0, 0), "p1": (3, 30, 1)}
    assert peers.Line.model_validate_json(await anext(told)).loads == {}  # a sign of life
    ended = True
    assert [line async for line in told] == []


async def test_only_so_many_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "MOST_TOLD", 1)
    teller = Teller("own", dict, lambda: False)
    told = teller.lines()
    await anext(told)
    assert [line async for line in teller.lines()] == []
    await told.aclose()  # type: ignore[attr-defined]
    await anext(teller.lines())


def test_a_fleet_chooses_by_what_all_have() -> None:
    p0, p1, d0 = instance("prefill", "p0"), instance("prefill", "p1"), instance("decode", "d0")
    fleet = Fleet()
    fleet.update(View((p0, p1, d0), revision=1))
    demand = Demand(MODEL, Prompt(100))
    fleet.others_have({"p0": Load(1, 0, 50, 0)})
    assert fleet.route(demand).producer == p1
    fleet.begin(p1, 80)
    assert fleet.route(demand).producer == p0
    assert (fleet.outstanding_tokens("p0"), fleet.outstanding_tokens("p1")) == (0, 80)  # of its own
    fleet.update(View((p0, p1, d0), revision=2))
    assert fleet.route(demand).producer == p0
    fleet.others_have({})
    assert fleet.route(demand).producer == p0
    fleet.end(p1, 80)
    assert fleet.in_hand() == {}


async def test_two_proxies_share_the_producers(start_stack: StartStack) -> None:
    go_on = asyncio.Event()
    stack = await start_stack(
        [hangs(go_on, prefilled()), hangs(go_on, prefilled())],
        [streams(token(" a"), DONE), streams(token(" a"), DONE)],
    )
    servers: list[ScriptedServer] = [*stack.producers, *stack.consumers]
    view = View(tuple(each.record for each in servers), revision=1)
    port = stack.proxy.url.rpartition(":")[2]
    async with running_proxy(view, proxy_peers=f"127.0.0.1:{port}") as other:
        await eventually(lambda: other.gateway.peers.heard == 1)
        first = asyncio.create_task(stack.proxy.status("/v1/completions", json=STREAM))
        await stack.producers[0].arrived.wait()
        await eventually(lambda: bool(other.gateway.fleet._of_others))
        second = asyncio.create_task(other.status("/v1/completions", json=STREAM))
        await stack.producers[1].arrived.wait()  # alone it would have taken the first, as the other did
        assert await other.metric("pd_proxy_peers") == 1
        go_on.set()
        assert [await first, await second] == [200, 200]
        await eventually(lambda: not other.gateway.fleet._of_others)


def test_what_peers_may_be() -> None:
    settings = load(ProxySettings, proxy_peers=" proxy-1, [::1]:8001 ")
    assert settings.peers == [("proxy-1", 8000), ("::1", 8001)]
    for wrong in ({"proxy_peers": "a b"}, {"proxy_peers": "a", "proxy_workers": 2}):
        changes: dict[str, Any] = wrong
        with pytest.raises(ConfigError, match="PROXY_PEERS"):
            load(ProxySettings, **changes)
