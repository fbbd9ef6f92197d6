"""Requests to servers with data-parallel engines: which one they name, and where they go when one fails."""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from typing import Any

import aiohttp.web
import pytest

from proxy.instances.instance_session import RANK_HEADER
from proxy.routing.fleet import View
from stack.instances.record import Engine, Role, engine_id
from tests.unit.proxy.conftest import RunningProxy, eventually, running_proxy
from tests.unit.proxy.scripted import MODEL, Script, ScriptedServer, error, prefilled, replies

WHOLE = {"model": MODEL, "prompt": "San Francisco is a"}
ANSWER = replies(200, {"choices": [{"text": " city"}]})
RANKS = range(2)
Servers = dict[str, ScriptedServer]
Start = Callable[..., Awaitable[tuple[RunningProxy, Servers]]]


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    """`await start(p=..., d=...)`: scripts by names that begin with their role's letter, of two engines each."""
    roles: dict[str, Role] = {"p": "prefill", "d": "decode", "a": "aggregated"}
    async with AsyncExitStack() as stack:

        async def started(**scripts: Script) -> tuple[RunningProxy, Servers]:
            servers: Servers = {}
            for name, script in scripts.items():
                servers[name] = await ScriptedServer(roles[name[0]], name, script).start()
                stack.push_async_callback(servers[name].stop)
            engines = [
                Engine(rank=rank, pin=rank, kv_transfer={"of": rank, "control": f"tcp://engine:{rank}"})
                for rank in RANKS
            ]
            records = [each.record.model_copy(update={"engines": tuple(engines)}) for each in servers.values()]
            view = View(tuple(engine for record in records for engine in record.by_engine()), revision=1)
            return await stack.enter_async_context(running_proxy(view)), servers

        yield started


async def ask(proxy: RunningProxy, path: str = "/v1/completions", **more: Any) -> tuple[int, Mapping[str, str]]:
    body = WHOLE if path == "/v1/completions" else {"model": MODEL, "input": "San Francisco is a"}
    async with proxy.post(path, json=body, **more) as answer:
        await answer.read()
        return answer.status, answer.headers


async def test_both_legs_name_their_engine(start: Start) -> None:
    """And the consumer is told of the producer's; whatever rank the client has asked for counts nowhere."""
    proxy, servers = await start(p=prefilled(), d=ANSWER)
    for rank in RANKS:
        status, headers = await ask(proxy, headers={RANK_HEADER: "7"})
        assert status == 200
        assert (headers["X-PD-Producer"], headers["X-PD-Consumer"]) == (engine_id("p", rank), engine_id("d", rank))
        for name in ("p", "d"):
            assert servers[name].received[rank].headers.getall(RANK_HEADER) == [str(rank)]
        told = servers["d"].received[rank].body["kv_transfer_params"]["producer"]
        assert told == {"of": rank, "control": f"tcp://engine:{rank}"}


async def test_aggregated_engines_take_turns(start: Start) -> None:
    proxy, servers = await start(a=ANSWER)
    for _ in RANKS:
        assert (await ask(proxy))[0] == 200
    assert [each.headers[RANK_HEADER] for each in servers["a"].received] == ["0", "1"]


@pytest.mark.parametrize("path", ["/v1/responses"])
async def test_where_vllm_chooses_the_engine_nothing_is_split(start: Start, path: str) -> None:
    proxy, servers = await start(p=prefilled(), d=ANSWER)
    status, headers = await ask(proxy, path)
    assert (status, headers["X-PD-Path"], headers["X-PD-Reason"]) == (200, "local", "rank_not_taken")
    assert not servers["p"].received
    assert await proxy.metric('pd_proxy_dispatched_total{path="local",reason="rank_not_taken"}') == 1


async def test_after_a_failure_another_server_is_tried(start: Start) -> None:
    """Not another engine of the same one, whose process is most likely what has failed."""
    proxy, servers = await start(a0=error(500, "dead"), a1=ANSWER)
    status, headers = await ask(proxy)
    assert (status, headers["X-PD-Consumer"]) == (200, "a1_dp0")
    assert len(servers["a0"].received) == 1


async def test_what_two_servers_answer_alike_is_the_request(start: Start) -> None:
    proxy, _ = await start(a0=error(500, "'function'"), a1=error(500, "'function'"))
    status, headers = await ask(proxy)
    assert (status, headers["X-Should-Retry"]) == (500, "false")


async def test_where_there_is_no_other_server_another_engine_is(start: Start) -> None:
    """What both answer alike may be their server's death: the client may try once more."""
    proxy, servers = await start(a=error(500, "dead"))
    status, headers = await ask(proxy)
    assert (status, headers.get("X-Should-Retry")) == (500, None)
    assert [each.headers[RANK_HEADER] for each in servers["a"].received] == ["0", "1"]


async def test_a_circuit_is_an_engines_own(start: Start) -> None:
    """The proxy's question goes to the engine in doubt, which is left alone; the other one serves on."""
    asked: list[str] = []

    async def rank_0_is_ill(request: aiohttp.web.Request) -> aiohttp.web.StreamResponse:
        asked.append(request.headers.get(RANK_HEADER, "none"))
        return await (error(500, "dead") if asked[-1] == "0" else ANSWER)(request)

    proxy, _ = await start(a=rank_0_is_ill)
    assert (await ask(proxy))[0] == 200  # at the second try, on rank 1
    breakers = proxy.gateway.breakers
    await eventually(lambda: breakers.state("a_dp0") != "closed")
    assert set(asked) == {"0", "1"}, "the questions too name their engine"
    assert asked.count("1") == 1, "no question to an engine without a doubt"
    for _ in range(3):
        status, headers = await ask(proxy)
        assert (status, headers["X-PD-Consumer"]) == (200, "a_dp1")
    assert breakers.state("a_dp1") == "closed"
