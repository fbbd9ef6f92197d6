"""Data parallelism on both sides, behind the proxy: each request is sent to one engine, and answered as by one server.

The models are dense: vLLM's CPU build cannot exchange what engines of a model with experts have to say to each other.
The order matters: the last tests end engines.
"""

import asyncio
import itertools
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from proxy.routing.fleet import View
from tests import tiny_models
from tests.integration.parallel.engines import (
    DATA_PARALLEL,
    ENGINES,
    PATIENCE_S,
    Servers,
    ask,
    by_engine,
    facts_of_same_answers,
    instance,
    names_of,
    pipe_of_facts,
    process_of_engine,
    prompts,
)
from tests.real_stack import wait_until
from tests.tiny_servers.instances import Fleet, Serving, answers_of
from tests.unit.proxy.conftest import RunningProxy, running_proxy


@pytest.fixture(scope="module")
def servers(fleet: Fleet, folder: Path) -> Iterator[Servers]:
    model = tiny_models.grouped_query(2).write(folder / "data parallel")
    plain = Serving(model)
    several = replace(plain, arguments=DATA_PARALLEL)
    found = Servers(
        producer=fleet.start("prefill", several),
        consumer=fleet.start("decode", replace(several, variables=pipe_of_facts(folder / "transfer-facts"))),
        plain=fleet.start("aggregated", plain),
    )
    fleet.wait()
    yield found
    fleet.stop_all()


@pytest.fixture
async def proxy(servers: Servers) -> AsyncIterator[RunningProxy]:
    async with running_proxy(servers.view) as started:
        yield started


async def test_every_engine_of_one_side_reaches_every_one_of_the_other(servers: Servers) -> None:
    engines = servers.view.instances
    for producer, consumer in itertools.product(engines[:ENGINES], engines[ENGINES:]):
        ids = producer.instance_id, consumer.instance_id
        async with running_proxy(View((producer, consumer), revision=1)) as proxy:
            told = await facts_of_same_answers(servers, proxy, prompts(str(ids[0][-1] + ids[1][-1]), 33, 700))
        assert [each.engines for each in told] == [ids, ids]


async def test_each_engine_computes_what_was_sent_to_it(servers: Servers, proxy: RunningProxy) -> None:
    """And nothing else, however the client's own headers would have it."""
    asked = prompts("shares", 100, 513, 700, 900, 1200, 64)
    sides = ((servers.producer, "vllm:prompt_tokens_total", 0), (servers.consumer, "pd_kv_received_tokens_total", 1))
    before = [by_engine(server, metric) for server, metric, _ in sides]
    told = await facts_of_same_answers(servers, proxy, asked)
    for (server, metric, side), earlier in zip(sides, before, strict=True):
        computed = [now - then for now, then in zip(by_engine(server, metric), earlier, strict=True)]
        sent = [
            sum(len(prompt) for prompt, each in zip(asked, told, strict=True) if each.engines[side] == name)
            for name in names_of(server)
        ]
        assert computed == sent
        assert all(sent), "both engines have had something to do"


async def test_a_prompt_goes_to_the_engine_that_holds_its_beginning(servers: Servers, proxy: RunningProxy) -> None:
    (begun,) = prompts("prefix", 1024)
    (first,) = await facts_of_same_answers(servers, proxy, [begun])
    again = await ask(proxy, [*begun, 1, 2, 3])
    assert again.engines[0] == first.engines[0]
    assert again.usage["prompt_tokens_details"]["cached_tokens"] == 1024


async def test_the_death_of_an_engine(servers: Servers) -> None:
    """vLLM then ends the whole server: what it had is answered elsewhere, and both of its engines are left alone."""
    reserve = instance("aggregated", servers.plain).model_copy(update={"engines": ()})
    asked = prompts("death", 1500, 1400, 1300, 1200)
    expected = await answers_of(servers.plain, asked)
    async with running_proxy(View((*servers.view.instances, reserve), revision=1)) as proxy:
        requests = [asyncio.create_task(ask(proxy, prompt)) for prompt in asked]
        process_of_engine(servers.producer, 1).kill()
        assert [each.tokens for each in await asyncio.gather(*requests)] == expected
        await asyncio.to_thread(wait_until, lambda: servers.producer.has_ended, PATIENCE_S, "the server has ended")
        async with asyncio.timeout(PATIENCE_S):
            while any(proxy.gateway.breakers.state(name) == "closed" for name in names_of(servers.producer)):
                assert (await ask(proxy, asked[0])).headers["X-PD-Reason"] == "aggregated"  # maybe at the second try
        assert all(proxy.gateway.breakers.state(name) == "closed" for name in names_of(servers.consumer))
