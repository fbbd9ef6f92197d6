"""The proxy knows what the store holds: no prompt waits for who has computed it, and usage counts it as cached."""

import asyncio
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from stack.instances.record import Instance, Role
from tests.integration.proxy.bad_day_stack import HttpAnswer, Proxy, proxy_of
from tests.parallel.stacks import completion
from tests.store.conftest import Prompts
from tests.store.processes import Store
from tests.store.servers import Servers, whole_blocks
from tests.tiny_servers.instances import NAME, Fleet, Server
from tests.unit.proxy.scripted import instance

PROMPT_TOKENS = 1500
LONG_ANSWER = 100


@pytest.fixture(scope="module")
def servers(store: Store, fleet: Fleet, model: Path) -> Iterator[Servers]:
    started = Servers(fleet, model, STORE_LOOKUP_TIMEOUT_S="1")
    yield started
    fleet.stop_all()


def record(role: Role, server: Server) -> Instance:
    return instance(
        role,
        server.instance_id,
        server.url,
        served_models=(NAME,),
        model=NAME,
        kv_transfer=server.record,
        store=f"{Store.address}/same",
    )


async def test_what_a_busy_producer_has_computed_another_one_loads(
    servers: Servers, prompts: Prompts, tmp_path: Path
) -> None:
    asked, to_the_other, to_the_first = prompts(PROMPT_TOKENS, PROMPT_TOKENS, PROMPT_TOKENS)
    producers = {server.instance_id: server for server in (servers.first, servers.second)}
    known = [record("prefill", server) for server in producers.values()]
    async with proxy_of(tmp_path, *known, record("decode", servers.consumer), PROXY_LOCAL_PROMPT_TOKENS="0") as proxy:

        async def ask(prompt: list[int]) -> HttpAnswer:
            return await proxy.post(completion(prompt))

        computed = await ask(asked)
        servers.wait_until_saved()
        first = computed.headers["X-PD-Producer"]
        assert (await ask(to_the_other)).headers["X-PD-Producer"] != first
        with producers[first].frozen():
            waiting = asyncio.create_task(ask(to_the_first))
            await asyncio.sleep(0.5)
            loaded = await ask(asked)
            assert not waiting.done()
        assert loaded.headers["X-PD-Producer"] != first
        assert loaded.headers["X-PD-Store-Tokens"] == str(whole_blocks(PROMPT_TOKENS))
        assert (await waiting).headers["X-PD-Producer"] == first
        expected = await servers.expected([asked])
        assert [computed.tokens] == [loaded.tokens] == expected


async def test_cached_tokens_are_what_one_server_counts(servers: Servers, prompts: Prompts, tmp_path: Path) -> None:
    """Of a chat whose turns go to one pair and the other one: to the plain server each turn is its own."""
    (turn,) = prompts(700)
    news = iter(prompts(40, 41, 42))
    pairs = [(servers.first, servers.consumer), (servers.second, servers.other_consumer)]
    counted = []
    async with AsyncExitStack() as stack:
        proxies = []
        for number, (producer, consumer) in enumerate(pairs):
            folder = tmp_path / str(number)
            folder.mkdir()
            records = (record("prefill", producer), record("decode", consumer))
            proxies.append(await stack.enter_async_context(proxy_of(folder, *records, PROXY_LOCAL_PROMPT_TOKENS="0")))
        plain = await stack.enter_async_context(Proxy.at(servers.plain.url))
        for proxy in (*proxies, proxies[0]):
            body = completion(turn, max_tokens=LONG_ANSWER)
            found, expected = await proxy.post(body), await plain.post(body)
            servers.wait_until_saved()
            assert found.tokens == expected.tokens
            counted.append((cached_tokens(found), cached_tokens(expected)))
            turn = turn + found.tokens + next(news)
    assert [of_one for _, of_one in counted] == [0, whole_blocks(800), whole_blocks(940)]
    assert [of_proxy for of_proxy, _ in counted] == [of_one for _, of_one in counted]


def cached_tokens(answer: HttpAnswer) -> int:
    return int(answer.body["usage"]["prompt_tokens_details"]["cached_tokens"])
