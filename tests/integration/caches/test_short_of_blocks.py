"""Each kind of cache with so few blocks that they are used again at once, and that requests are preempted."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.caches import models
from tests.integration.caches.servers import Trio
from tests.integration.caches.shortage import (
    assert_blocks_are_used_again,
    assert_consumer_preempts,
    assert_producer_preempts,
    short_of_blocks,
)
from tests.tiny_servers.instances import Fleet

# Blocks in the pool, of which the longest prompt that may be asked needs about half.
POOLS = {
    "gemma-3": 96,
    "gemma-4-unequal": 80,
    "llama-4": 96,
    "nemotron-h": 24,
}
LENGTHS = (700, 650, 900, 800, 1000, 450)


@pytest.fixture(scope="module", params=POOLS)
def trio(request: pytest.FixtureRequest, fleet: Fleet, models_folder: Path) -> Iterator[Trio]:
    with short_of_blocks(fleet, models_folder, models.BY_NAME[request.param], POOLS[request.param]) as started:
        yield started


async def test_blocks_are_used_again(trio: Trio) -> None:
    await assert_blocks_are_used_again(trio, LENGTHS)


async def test_producer_preempts(trio: Trio) -> None:
    await assert_producer_preempts(trio)


async def test_consumer_preempts(trio: Trio) -> None:
    await assert_consumer_preempts(trio)
