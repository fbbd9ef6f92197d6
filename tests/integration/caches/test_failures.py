"""Transfers that do not arrive whole: the consumer computes all of the prompt, in every group, and nothing is held."""

import asyncio
import uuid
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.integration.caches import answers, models
from tests.integration.caches.answers import Answer
from tests.integration.caches.models import Served
from tests.integration.caches.servers import Trio
from tests.real_stack import metrics, wait_until
from tests.tiny_servers.instances import Fleet, Server, Tokens

KINDS = ["gemma-3", "gemma-4-unequal-one-group", "llama-4", "nemotron-h", "mamba-2"]
SEEN_LIMIT_S = 30


@pytest.fixture(scope="module", params=KINDS)
def served(request: pytest.FixtureRequest) -> Served:
    return models.BY_NAME[request.param]


@pytest.fixture(scope="module")
def trio(served: Served, fleet: Fleet, models_folder: Path) -> Iterator[Trio]:
    short = {"TRANSFER_PATIENCE_S": "5", "TRANSFER_TIMEOUT_S": "20", "TRANSFER_CANCEL_TIMEOUT_S": "22"}
    yield Trio.start(fleet, models_folder, served, variables={"TRANSFER_CHECKSUM": "true", **short})
    fleet.stop_all()


async def test_bytes_that_are_lost(fleet: Fleet, trio: Trio) -> None:
    """The checksum differs."""
    prompts = trio.prompts("lost", [33, 160, 300, 700])
    free = trio.free_blocks()
    fleet.drop_writes.touch()
    try:
        found = await trio.transferred(prompts)
    finally:
        fleet.drop_writes.unlink()
    await assert_computed(trio, prompts, found)
    assert f"checksum: what arrived from {trio.producer.address}" in trio.consumer.log
    assert trio.free_blocks() == free
    await trio.assert_same(trio.prompts("after lost", [160, 700]))


async def test_aborts(trio: Trio) -> None:
    """Of a leg that waits for the other; of both in the middle of the prompt."""
    waiting, cut = trio.prompts("aborts", [300, 900])
    free = trio.free_blocks()
    leg = asyncio.create_task(decode(trio, waiting))
    await seen(lambda: held(trio.consumer) > 0, "the consumer waits")
    await abort(leg)
    legs = asyncio.create_task(trio.transferred([cut]))
    await seen(lambda: held(trio.consumer) > 0, "the consumer waits")
    await abort(legs)
    assert trio.free_blocks() == free
    await trio.assert_same(trio.prompts("after aborts", [160, 700]))


async def test_consumer_killed_then_producer_killed(fleet: Fleet, trio: Trio) -> None:
    """What waits for the dead one ends. The last test: nothing is left of the trio."""
    at_consumer, at_producer = trio.prompts("killed", [300, 700])
    leg = asyncio.create_task(decode(trio, at_consumer))
    await seen(lambda: held(trio.consumer) > 0, "the consumer waits")
    trio.producer.kill()
    await assert_computed(trio, [at_consumer], [await leg])
    await assert_computed(trio, [at_producer], [await decode(trio, at_producer)])
    wait_until(trio.consumer.is_idle, SEEN_LIMIT_S, "the consumer holds no block")


async def assert_computed(trio: Trio, prompts: list[Tokens], found: list[Answer]) -> None:
    """By the consumer alone, and as the plain server does."""
    assert not await trio.different(prompts, found)
    assert not any(answer.facts for answer in found)


async def decode(trio: Trio, prompt: Tokens) -> Answer:
    """The consumer's leg, whose producer knows nothing of it."""
    transfer: dict[str, Any] = {"do_remote_prefill": True, "producer": trio.producer.record}
    (answer,) = await answers.plain(
        trio.consumer, [prompt], kv_transfer_params=transfer | {"transfer_id": uuid.uuid4().hex}
    )
    return answer


def held(server: Server) -> float:
    return metrics(server.url)["pd_kv_blocks_held"]


async def seen(condition: Any, what: str) -> None:
    await asyncio.to_thread(wait_until, condition, SEEN_LIMIT_S, what)


async def abort(leg: "asyncio.Task[Any]") -> None:
    """Close its connections, which is how vLLM learns that nobody waits any more."""
    assert leg.cancel(), "it has ended already"
    with suppress(asyncio.CancelledError, aiohttp.ClientError):
        await leg
