"""Instances whose store has a disk behind its memory: what memory has forgotten they load from there, all of it."""

import logging
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.real_stack import wait_until
from tests.store.conftest import Prompts
from tests.store.disk.owner import DISK_BYTES, SEGMENT_BYTES, StoreWithDisk
from tests.store.processes import Part
from tests.store.servers import Servers, assert_in_use_again, from_store, whole_blocks
from tests.tiny_servers.instances import BLOCK_TOKENS, Fleet, Server, Tokens

log = logging.getLogger(__name__)

TOKEN_BYTES = 2048  # of the model's cache
OLD = (900, 901, 902)
OLD_TOKENS = sum(map(whole_blocks, OLD))
WRITTEN_LIMIT_S = 60.0
PARTS: tuple[Part, ...] = ("master", "owner")
# Whether a load was in time is not asked here.
PATIENT = {"STORE_LOOKUP_TIMEOUT_S": "1", "STORE_LOAD_TIMEOUT_S": "60"}
TELLS_TIERS = {"VLLM_MOONCAKE_STORE_TIER_LOG": "1"}


@pytest.fixture(scope="module")
def store(folder: Path) -> Iterator[StoreWithDisk]:
    (folder / "with-disk").mkdir()
    with StoreWithDisk(folder / "with-disk") as started:
        yield started


@pytest.fixture(scope="module")
def servers(store: StoreWithDisk, fleet: Fleet, model: Path) -> Iterator[Servers]:
    started = Servers(fleet, model, STORE_MASTER=store.address, **PATIENT, **TELLS_TIERS)
    yield started
    fleet.stop_all()


async def test_a_prompt_that_memory_has_forgotten_is_loaded_from_the_disk(
    servers: Servers, store: StoreWithDisk, prompts: Prompts
) -> None:
    old, new = prompts(*OLD), prompts(*[1000] * (2 * SEGMENT_BYTES // TOKEN_BYTES // 1000))
    await save(servers, store, old)
    await save(servers, store, new)
    assert store.evicted >= OLD_TOKENS // BLOCK_TOKENS

    assert await found_by_second(servers, old) == (OLD_TOKENS, 0)


async def test_what_is_on_the_disk_outlives_owner_and_master(
    servers: Servers, store: StoreWithDisk, prompts: Prompts
) -> None:
    old = prompts(*OLD)
    await save(servers, store, old)

    for part in PARTS:
        store.kill(part)
    for part in PARTS:
        store.start(part)
    await assert_in_use_again(servers, store, prompts)
    assert await found_by_second(servers, old) == (OLD_TOKENS, 0)


async def test_the_disk_takes_no_more_than_it_may(servers: Servers, store: StoreWithDisk, prompts: Prompts) -> None:
    asked = prompts(*[3000] * (2 * DISK_BYTES // TOKEN_BYTES // 3000))
    expected = await servers.expected(asked)
    largest = 0
    found = []
    for prompt in asked:
        found += await servers.by(servers.first, [prompt])
        servers.wait_until_saved()
        largest = max(largest, store.bytes_on_disk)
    log.warning("at most %d MiB of %d on the disk", largest >> 20, DISK_BYTES >> 20)

    assert found == expected
    assert DISK_BYTES / 2 < largest <= DISK_BYTES
    await assert_in_use_again(servers, store, prompts)


async def save(servers: Servers, store: StoreWithDisk, prompts: list[Tokens]) -> None:
    """One after the other, until all of them is on the disk too."""
    for prompt in prompts:
        before = store.saved_on_disk
        await servers.by(servers.first, [prompt])
        servers.wait_until_saved()
        whole = len(prompt) // BLOCK_TOKENS * BLOCK_TOKENS * TOKEN_BYTES

        def written(least: int = before + whole) -> bool:
            return store.saved_on_disk >= least

        wait_until(written, WRITTEN_LIMIT_S, f"it is on the disk:\n{store.log}")


async def found_by_second(servers: Servers, prompts: list[Tokens]) -> tuple[int, int]:
    """Asks the other producer for prompts that are new to it, and the answers have to be right.

    Returns: how many of their tokens it has loaded from the disk, and how many from memory.
    """
    second = servers.second
    loaded, disk, memory = from_store(second), blocks_of("disk", second), blocks_of("memory", second)
    found = [answer for prompt in prompts for answer in await servers.by(second, [prompt])]
    servers.wait_until_saved()
    assert found == await servers.expected(prompts)
    loaded = from_store(second) - loaded
    disk = (blocks_of("disk", second) - disk) * BLOCK_TOKENS
    memory = (blocks_of("memory", second) - memory) * BLOCK_TOKENS
    log.warning("%d tokens loaded: %d from the disk, %d from memory", loaded, disk, memory)
    assert loaded == disk + memory
    return disk, memory


def blocks_of(tier: str, server: Server) -> int:
    """That it has loaded from there, by its log."""
    return sum(map(int, re.findall(rf"\b{tier}_keys=(\d+)", server.log)))
