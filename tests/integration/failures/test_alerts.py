"""Prometheus on the real stack: it finds every server, each alert fires when its fault is caused, each panel has data.

The tests are in the order in which they leave more behind: the last looks at every query once all has happened.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress

import aiohttp
import psutil
import pytest

from stack.configuration.settings import StackSettings
from tests import etcd_http
from tests.integration.answers import Tokens
from tests.integration.failures.conftest import Prompts
from tests.integration.failures.failure_stack import FailureStack
from tests.integration.failures.legs import Transfer, until
from tests.integration.failures.watching import (
    SHOWN_LIMIT_S,
    Watch,
    alerts,
    panel_queries,
    recorded,
    watching,
)
from tests.real_stack import MODEL, free_ports, wait_until

LIMIT = aiohttp.ClientTimeout(total=120)
OUTPUT_TOKENS = 6
STANDSTILL_S = 4.0  # longer than PROXY_GOODPUT_TTFT_S
FIRED: set[str] = set()
DASHBOARDS = ("requests", "transfers", "instances")  # the store's: tests/store/test_processes.py


@pytest.fixture(scope="module")
def watch(stack: FailureStack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watch]:
    (port,) = free_ports(1)
    variables = {name.lower(): value for name, value in stack.variables.items()}
    fields = {name: value for name, value in variables.items() if name in StackSettings.model_fields}
    settings = StackSettings.model_validate(fields | {"prometheus_port": port})
    with watching(settings, tmp_path_factory.mktemp("prometheus")) as started:
        yield started


async def ask(stack: FailureStack, prompt: Tokens) -> int:
    """A stream through the proxy, to its end. Returns: its status; 0 when the connection broke."""
    body = {"model": MODEL, "prompt": prompt, "max_tokens": OUTPUT_TOKENS, "stream": True, "ignore_eos": True}
    with suppress(aiohttp.ClientError):
        async with (
            aiohttp.ClientSession(timeout=LIMIT) as session,
            session.post(stack.api_url + "/v1/completions", json=body) as answer,
        ):
            await answer.read()
            return answer.status
    return 0


@asynccontextmanager
async def load(stack: FailureStack, prompts: list[Tokens]) -> AsyncIterator[None]:
    """These prompts over and over, one after the other, as long as the block lasts."""

    async def go_on() -> None:
        while True:
            for prompt in prompts:
                if await ask(stack, prompt) != 200:
                    await asyncio.sleep(0.2)  # a refusal comes at once

    task = asyncio.create_task(go_on())
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def calm(watch: Watch, *expected: str) -> float:
    """Wait until none of these fires any more for what was before. Returns: the time, in Unix seconds."""

    def none_does() -> bool:
        firing = {each["metric"]["alertname"] for each in watch.query("ALERTS{alertstate='firing'}")}
        return not firing & set(expected)

    await until(none_does, f"{', '.join(expected)} do not fire")
    return time.time()


async def fire(watch: Watch, since: float, *expected: str) -> None:
    """Wait until all of these were firing."""
    seen: set[str] = set()

    def all_have() -> bool:
        seen.update(watch.fired(since))
        return seen >= set(expected)

    try:
        await asyncio.to_thread(wait_until, all_have, SHOWN_LIMIT_S, f"{', '.join(expected)} fire")
    except AssertionError:
        raise AssertionError(f"only {seen} of {expected} fired") from None
    FIRED.update(seen)


async def test_every_server_is_found_and_nothing_fires_while_all_is_well(
    stack: FailureStack, watch: Watch, prompts: Prompts
) -> None:
    async with load(stack, prompts(64, 96, 128)):
        expected = {f"{url}/metrics" for url in (stack.api_url, stack.etcd_url, *(each.url for each in stack.servers))}
        await until(lambda: watch.targets() == dict.fromkeys(expected, "up"), "all servers are up")
        await until(lambda: bool(watch.query("pd:streams_good:rate5m > 0")), "streams are good")
        await until(lambda: bool(watch.query('pd:kv_sent_bytes:rate5m{transport="tcp"} > 0')), "transfers move")

        # A server that computes may miss one of Prometheus' questions: its role is then not there for a moment.
        def roles() -> dict[str, str]:
            return {each["metric"]["role"]: each["value"][1] for each in watch.query("pd:instances_up:count")}

        await until(lambda: roles() == {"prefill": "1", "decode": "2"}, "all instances are counted")
    firing = {each["metric"]["alertname"] for each in watch.query("ALERTS{alertstate='firing'}")}
    assert firing <= {"PdTtftSloBurning"}, "a busy machine may be slow"


async def test_the_stack_s_own_prometheus_finds_them_too(stack: FailureStack) -> None:
    own = Watch(stack.prometheus_url)
    await until(lambda: {f"{each.url}/metrics" for each in stack.servers} <= set(own.targets()), "it found them")


async def test_writes_that_are_lost(stack: FailureStack, watch: Watch, prompts: Prompts) -> None:
    since = await calm(watch, "PdTransfersFailing", "PdTransfersRecomputed")
    stack.drop_writes.touch()
    try:
        # New prompts: what a consumer has in its prefix cache it asks nobody for.
        async with load(stack, prompts(*range(64, 94))):
            await fire(watch, since, "PdTransfersFailing", "PdTransfersRecomputed")
    finally:
        stack.drop_writes.unlink()


async def test_blocks_that_nobody_comes_for(stack: FailureStack, watch: Watch, prompts: Prompts) -> None:
    since = await calm(watch, "PdKvBlocksHeld")
    (prompt,) = prompts(100)
    await Transfer(prompt).prefill(stack.producer)
    await fire(watch, since, "PdKvBlocksHeld")


async def test_a_producer_that_stands_still(stack: FailureStack, watch: Watch, prompts: Prompts) -> None:
    since = await calm(watch, "PdTtftSloBurning")
    waiting = []
    with stack.producer.frozen():
        waiting += [asyncio.create_task(ask(stack, prompt)) for prompt in prompts(64, 80)]
        await asyncio.sleep(STANDSTILL_S)
    await asyncio.gather(*waiting)
    await fire(watch, since, "PdTtftSloBurning")
    await until(stack.producer.is_registered, "the producer is in etcd")


async def test_more_requests_than_it_can_take(stack: FailureStack, watch: Watch, prompts: Prompts) -> None:
    since = await calm(watch, "PdQueueing")
    many = [asyncio.create_task(ask(stack, prompt)) for prompt in prompts(*range(300, 320))]
    await fire(watch, since, "PdQueueing")
    await asyncio.gather(*many)


async def test_an_instance_that_cannot_be_reached(stack: FailureStack, watch: Watch, prompts: Prompts) -> None:
    since = await calm(watch, "PdCircuitOpen")
    (closed,) = free_ports(1)
    dead = stack.consumer.record.model_copy(
        update={"instance_id": "decode-unreachable", "url": f"http://127.0.0.1:{closed}", "started_at": time.time()}
    )
    etcd_http.put(stack.etcd_url, dead.key, dead.model_dump_json())
    try:
        async with load(stack, prompts(64, 80, 96)):
            await fire(watch, since, "PdCircuitOpen")
    finally:
        etcd_http.delete(stack.etcd_url, dead.key)


async def test_a_producer_that_is_killed(stack: FailureStack, watch: Watch, prompts: Prompts) -> None:
    expected = ("PdInstanceLost", "PdRequestsRefused", "PdTtftSloBurning")
    since, engine = await calm(watch, *expected), stack.producer.transfer_record()["engine_id"]
    async with load(stack, prompts(64, 80)):
        stack.producer.kill()
        await fire(watch, since, *expected)
    await asyncio.to_thread(stack.producer.wait_for_successor, engine)


async def test_a_proxy_that_stands_still(stack: FailureStack, watch: Watch) -> None:
    since = await calm(watch, "PdProxyDown")
    proxy = psutil.Process(stack.pids["proxy"])
    proxy.suspend()
    try:
        await fire(watch, since, "PdProxyDown")
    finally:
        proxy.resume()


async def test_every_query_of_every_panel_and_rule_has_data(
    stack: FailureStack, watch: Watch, prompts: Prompts
) -> None:
    assert alerts() == FIRED, "each alert has fired above"

    queries = [*panel_queries(*DASHBOARDS), *((name, name) for name in recorded())]
    found: list[str] = []

    def none_is() -> bool:
        found[:] = watch.without_data(queries)
        return not found

    async with load(stack, prompts(64, 96, 128)):
        try:
            await until(none_is, "every query has data")
        except AssertionError:
            raise AssertionError("without data: " + "; ".join(found)) from None
