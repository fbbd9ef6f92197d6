"""STORE_DISK_BYTES: what memory has no room for any more comes from a disk, which takes no more than it may."""

import logging
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.real_stack import wait_until
from tests.store.client import VALUE_BYTES
from tests.store.disk.owner import DISK_BYTES, LEASE_S, SEGMENT_BYTES, StoreWithDisk
from tests.store.processes import Part

log = logging.getLogger(__name__)

IN_MEMORY = SEGMENT_BYTES // VALUE_BYTES
WRITTEN_LIMIT_S = 60.0
PARTS: tuple[Part, ...] = ("master", "owner")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[StoreWithDisk]:
    with StoreWithDisk(tmp_path) as started:
        yield started


def put(store: StoreWithDisk, first: int, count: int) -> int:
    """Until all that was saved is on the disk too. Returns: how many were saved."""
    before = store.saved_on_disk
    saved = store.put(first, count)
    written = saved * VALUE_BYTES
    wait_until(lambda: store.saved_on_disk - before >= written, WRITTEN_LIMIT_S, f"it is on the disk:\n{store.log}")
    return saved


def test_what_memory_has_forgotten_comes_from_the_disk_also_after_a_restart(store: StoreWithDisk) -> None:
    old, new = IN_MEMORY // 2 - 5, IN_MEMORY  # some files of several values would not become full
    assert put(store, 0, old) == old
    time.sleep(2 * LEASE_S)
    saved = put(store, old, new)
    right, wrong, on_disk = store.get(0, old)
    log.warning("%d more saved; then %d values, %d of them from the disk", saved, right, on_disk)
    assert (right, wrong) == (old, 0)
    assert on_disk > 0

    for part in PARTS:
        store.kill(part)
    for part in PARTS:
        store.start(part)
    store.wait_for_memory()
    wait_until(lambda: store.get(0, old) == (old, 0, old), WRITTEN_LIMIT_S, f"all from the disk:\n{store.log}")


def test_the_disk_takes_no_more_than_it_may_and_forgets_the_oldest(store: StoreWithDisk) -> None:
    values = DISK_BYTES // VALUE_BYTES
    largest, saved, first = 0, 0, 0
    while saved < 1.25 * values:
        assert first < 4 * values, f"{saved} of {first} values saved"
        saved += store.put(first, IN_MEMORY // 2)
        first += IN_MEMORY // 2
        largest = max(largest, store.bytes_on_disk)
    log.warning("%d of %d values saved, %d of %d MiB on the disk", saved, first, largest >> 20, DISK_BYTES >> 20)
    assert DISK_BYTES / 2 < largest <= DISK_BYTES
    right, wrong, _ = store.get(0, first)
    assert wrong == 0
    assert IN_MEMORY < right < saved
