"""Speculative decoding in pools so small that blocks are used again at once, and that requests are preempted.

A draft's guesses take blocks behind what they guess from, which nobody reserves while a cache is loaded.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.caches import drafts
from tests.integration.caches.servers import Trio
from tests.integration.caches.shortage import (
    assert_blocks_are_used_again,
    assert_consumer_preempts,
    assert_producer_preempts,
    short_of_blocks,
)
from tests.tiny_servers.instances import Fleet

SPECULATION = drafts.CASES["draft model"]
POOL = 56  # blocks, of which the longest prompt that may be asked needs about half
LENGTHS = (700, 650, 800, 750, 850, 450)


@pytest.fixture(scope="module")
def trio(fleet: Fleet, models_folder: Path) -> Iterator[Trio]:
    speculates = SPECULATION.arguments(models_folder)
    with short_of_blocks(fleet, models_folder, SPECULATION.target, POOL, speculates) as started:
        yield started


async def test_blocks_are_used_again(trio: Trio) -> None:
    await assert_blocks_are_used_again(trio, LENGTHS)


async def test_producer_preempts(trio: Trio) -> None:
    await assert_producer_preempts(trio)


async def test_consumer_preempts(trio: Trio) -> None:
    await assert_consumer_preempts(trio)
