"""Transfers that do not arrive whole: the consumer computes all of the prompt, in every group, and nothing is held."""

import asyncio
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.caches import models
from tests.integration.caches.answers import Answer
from tests.integration.caches.legs import SEEN_LIMIT_S, abort, decode, held, prefill, seen
from tests.integration.caches.models import Served
from tests.integration.caches.servers import Trio
from tests.real_stack import metrics, wait_until
from tests.tiny_servers.instances import Fleet, Tokens

# Several groups, of which all is computed anew; one, of which a part may be kept; a state.
KINDS = ["gemma-3", "gemma-4-unequal-one-group", "nemotron-h"]


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


@pytest.mark.parametrize("aborted", ["prefill", "decode", "both"])
async def test_aborted_while_they_wait(trio: Trio, aborted: str) -> None:
    """The consumer has named its blocks, the producer has not begun."""
    (prompt,) = trio.prompts(f"aborted {aborted}", [300])
    free = trio.free_blocks()
    transfer_id = uuid.uuid4().hex
    with trio.producer.frozen():
        legs: dict[str, asyncio.Task[Any]] = {
            "prefill": asyncio.create_task(prefill(trio, prompt, transfer_id)),
            "decode": asyncio.create_task(decode(trio, prompt, transfer_id)),
        }
        await seen(lambda: held(trio.consumer) > 0, "the consumer waits")
        for name in legs.keys() & ({aborted} if aborted != "both" else set(legs)):
            await abort(legs.pop(name))
    if "prefill" in legs:
        await legs["prefill"]
    if "decode" in legs:
        await assert_computed(trio, [prompt], [await legs["decode"]])
    assert trio.free_blocks() == free


async def test_aborted_while_they_compute(trio: Trio) -> None:
    """Ten prompts: some have been answered, of some a part has moved, some have not begun."""
    free = trio.free_blocks()
    sent = metrics(trio.producer.url)["pd_kv_sent_bytes_total"]
    legs = asyncio.create_task(trio.transferred(trio.prompts("aborts", [1000] * 10)))
    await seen(lambda: metrics(trio.producer.url)["pd_kv_sent_bytes_total"] > sent, "the first bytes have moved")
    await abort(legs)
    assert trio.free_blocks() == free
    await trio.assert_same(trio.prompts("after aborts", [160, 700]))


async def test_producer_killed(trio: Trio) -> None:
    """Under a consumer that waits, and before one that comes too late. The last test: nothing is left of the trio."""
    waiting, late = trio.prompts("killed", [300, 700])
    leg = asyncio.create_task(decode(trio, waiting, "without a prefill"))
    await seen(lambda: held(trio.consumer) > 0, "the consumer waits")
    trio.producer.kill()
    await assert_computed(trio, [waiting], [await leg])
    await assert_computed(trio, [late], [await decode(trio, late, "too late")])
    wait_until(trio.consumer.is_idle, SEEN_LIMIT_S, "the consumer holds no block")


async def assert_computed(trio: Trio, prompts: list[Tokens], found: list[Answer]) -> None:
    """By the consumer alone, and as the plain server does."""
    assert not await trio.different(prompts, found)
    assert not any(answer.facts for answer in found)
