"""Data parallelism inside each server, through launchers, etcd and proxy: who answers, who drains, who dies.

One producer and two consumers, of two engines each. The order matters: the last tests end servers.
"""

import asyncio
import signal
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

import aiohttp
import pytest

from stack.instances.record import Instance, engine_id
from tests.integration.proxy.bad_day_stack import Proxy
from tests.parallel.stacks import (
    SEEN_LIMIT_S,
    TinyStack,
    completion,
    control_ports,
    listening,
    names_of,
    pairs,
    prompts,
    shown,
    transferred,
    until_shown,
)
from tests.real_stack import START_LIMIT_S, metrics, running, wait_until

ENGINES = 2
LONG = 1200  # tokens of an answer that takes seconds
Streams = dict[str, aiohttp.ClientResponse]  # by the consumer


class EnginesStack(TinyStack):
    def __post_init__(self) -> None:
        super().__post_init__()
        self.with_model()
        self.variables |= {"DECODE_REPLICAS": "2", "VLLM_EXTRA_ARGS": f"--data-parallel-size {ENGINES}"}


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EnginesStack]:
    with running(EnginesStack(tmp_path_factory.mktemp("engines"))) as started:
        started.wait_for(servers=3)
        yield started


@pytest.fixture
async def proxy(stack: EnginesStack) -> AsyncIterator[Proxy]:
    """That knows all engines."""
    async with Proxy.at(stack.api_url) as own:
        await until_shown(own, lambda names: names == set(names_of(stack.records())))
        yield own


async def test_a_record_for_each_server_lists_its_engines(stack: EnginesStack, proxy: Proxy) -> None:
    records = stack.records()
    assert [each.role for each in records] == ["decode", "decode", "prefill"]
    for record, name in zip(records, ("decode-0", "decode-1", "prefill-0"), strict=True):
        assert [(engine.rank, engine.pin) for engine in record.engines] == [(0, 0), (1, 1)]
        assert {port for engine in record.engines for port in control_ports(engine)} <= listening(
            stack.launcher(name)
        ).keys()
    ports = [port for record in records for engine in record.engines for port in control_ports(engine)]
    assert len(set(ports)) == len(ports) == len(records) * ENGINES
    found = await shown(proxy)
    assert {name: (each["server"], each["data_parallel_rank"]) for name, each in found.items()} == {
        engine_id(record.instance_id, rank): (record.instance_id, rank) for record in records for rank in range(ENGINES)
    }
    assert {each["verdict"]["circuit"] for each in found.values()} == {"closed"}


async def test_each_engine_gets_what_headers_and_log_say(stack: EnginesStack, proxy: Proxy) -> None:
    records = stack.records()
    counted = {"prefill": "vllm:prompt_tokens_total", "decode": "pd_kv_received_tokens_total"}
    asked = prompts("shares", 100, 513, 700, 900, 1200, 64, 400, 333)

    def by_engine() -> dict[str, float]:
        return {
            engine_id(record.instance_id, rank): metrics(record.url, rank).get(counted[record.role], 0.0)
            for record in records
            for rank in range(ENGINES)
        }

    # What the comparison asks of a consumer directly takes no block of a transfer, and no producer.
    before, logged = by_engine(), len(stack.logged_requests())
    found = await transferred(proxy, stack.decode_url, asked)
    after = by_engine()
    sent: Counter[str] = Counter()
    for prompt, (producer, consumer) in zip(asked, [pair for each in found for pair in pairs([each])], strict=True):
        sent[producer] += len(prompt)
        sent[consumer] += len(prompt)
    assert {name: after[name] - before[name] for name in after} == sent
    assert set(sent) == set(names_of(records)), "every engine has had something to do"
    wait_until(lambda: len(stack.logged_requests()) == logged + len(asked), SEEN_LIMIT_S, "they are logged")
    assert Counter((line["producer"], line["consumer"]) for line in stack.logged_requests()[logged:]) == pairs(found)


async def test_a_server_that_drains_ends_what_its_engines_have_begun(stack: EnginesStack, proxy: Proxy) -> None:
    """Of every rank; new requests go to the other server's."""
    stays, drains = (record for record in stack.records() if record.role == "decode")
    async with streams(proxy, stack.records()) as running_streams:
        stack.launcher("decode-1").send_signal(signal.SIGTERM)
        await gone(stack, drains)
        assert drains not in stack.records()
        await until_shown(proxy, lambda names: names.isdisjoint(names_of([drains])))
        found = [await proxy.post(completion(prompt)) for prompt in prompts("while it drains", 100, 200, 300)]
        assert {each.headers["X-PD-Consumer"] for each in found} <= set(names_of([stays]))
        ended = await whole_streams(running_streams)
    assert ended == dict.fromkeys(running_streams, True)
    wait_until(lambda: len(stack.records()) == 3, START_LIMIT_S, "supervisord has started it again")
    assert drains.instance_id not in {each.instance_id for each in stack.records()}


async def test_an_engine_that_dies_takes_its_server_with_it(stack: EnginesStack, proxy: Proxy) -> None:
    """vLLM ends the other ranks too: their streams say so, the record leaves etcd, and the other server goes on."""
    dies, lives = (record for record in stack.records() if record.role == "decode")
    (port,) = control_ports(dies.engines[1])
    async with streams(proxy, stack.records()) as running_streams:
        listening(stack.launcher("decode-0"))[port].kill()
        texts = dict(
            zip(running_streams, await asyncio.gather(*(each.read() for each in running_streams.values())), strict=True)
        )
    assert {name: is_whole(text) for name, text in texts.items()} == {
        name: name in names_of([lives]) for name in running_streams
    }
    assert all(b'"error"' in texts[name] for name in names_of([dies])), "a client is told, and not left with a part"
    await gone(stack, dies)
    found = [await proxy.post(completion(prompt)) for prompt in prompts("after a death", 100, 200, 300, 400)]
    assert {each.headers["X-PD-Consumer"] for each in found} == set(names_of([lives]))
    known = await shown(proxy)
    assert {known[name]["verdict"]["circuit"] for name in names_of([lives])} == {"closed"}
    assert known.keys().isdisjoint(names_of([dies]))


async def test_after_a_death_both_engines_are_back_under_new_names(stack: EnginesStack) -> None:
    wait_until(lambda: len(stack.records()) == 3, START_LIMIT_S, "supervisord has started it again")
    async with Proxy.at(stack.api_url) as proxy:
        await until_shown(proxy, lambda names: names == set(names_of(stack.records())))
        found = await transferred(proxy, stack.decode_url, prompts("back", *[300] * 12))
    assert {consumer for _, consumer in pairs(found)} == {
        name for name in names_of(stack.records()) if name.startswith("decode")
    }


@asynccontextmanager
async def streams(proxy: Proxy, records: Sequence[Instance]) -> AsyncIterator[Streams]:
    """A long one on each engine of each consumer, all of which have begun."""
    consumers = {name for name in names_of(records) if name.startswith("decode")}
    async with AsyncExitStack() as stack:
        found: Streams = {}
        for prompt in prompts("streams" + min(consumers), *[200] * len(consumers)):
            body = completion(prompt, max_tokens=LONG, stream_options={"include_usage": True})
            answer = await stack.enter_async_context(proxy.stream(body))
            found[answer.headers["X-PD-Consumer"]] = answer
        assert found.keys() == consumers
        yield found


async def whole_streams(running_streams: Streams) -> dict[str, bool]:
    texts = await asyncio.gather(*(each.read() for each in running_streams.values()))
    return {name: is_whole(text) for name, text in zip(running_streams, texts, strict=True)}


def is_whole(text: bytes) -> bool:
    return f'"completion_tokens":{LONG}'.encode() in text.replace(b": ", b":") and b"data: [DONE]" in text


async def gone(stack: EnginesStack, record: Instance) -> None:
    """From etcd."""
    names = [record.instance_id]
    await asyncio.to_thread(
        wait_until,
        lambda: not any(each.instance_id in names for each in stack.records()),
        SEEN_LIMIT_S,
        f"{record.instance_id} has left etcd",
    )
