"""STORE_DISK_BYTES in containers: the volume is the owners' alone, each has a folder of it, and what is there lasts."""

import logging
import time
from collections.abc import Iterator

import pytest

from tests.real_stack import wait_until
from tests.store.client import VALUE_BYTES
from tests.store.containers.project import OWNER, StoreProject, assert_locked_in

log = logging.getLogger(__name__)

VALUES = 256
DISK_BYTES = 128 << 20
WRITTEN_LIMIT_S = 60.0
LOADED_LIMIT_S = 120.0
FOLDER = "tr '\\0' '\\n' < /proc/$(pidof mooncake_client)/environ | sed -n s/MOONCAKE_OFFLOAD_FILE_STORAGE_PATH=//p"

pytestmark = pytest.mark.timeout(3000)  # the first test waits for the images


@pytest.fixture(scope="module")
def store() -> Iterator[StoreProject]:
    project = StoreProject(variables={"STORE_DISK_BYTES": str(DISK_BYTES)})
    with project.taken_down():
        project.start_store()
        yield project


def test_an_owner_can_write_to_its_volume_and_nowhere_else(store: StoreProject) -> None:
    for container in store.inspect("store-master", "store"):
        assert_locked_in(container, f"{store.name}_inside")
    assert not any(container["Mounts"] for container in store.inspect("store-master"))
    for container in store.inspect("store"):
        (mount,) = container["Mounts"]
        assert (mount["Type"], mount["Name"], mount["Destination"]) == ("volume", f"{store.name}_store-disk", "/disk")
        assert in_owner(store, container["Id"], "stat --format '%u:%g %a' /disk") == "10001:10001 700"
        writable = "for folder in / /app /etc /opt/venv /models /key /disk; do test -w $folder && echo $folder; done"
        assert in_owner(store, container["Id"], f"{writable}; true") == "/disk"


def test_what_is_on_the_disk_outlives_its_owners_and_does_not_mix(store: StoreProject) -> None:
    assert store.put(0, VALUES) == VALUES
    first, second = store.container_ids("store")
    folders = {each: folder_of(store, each) for each in (first, second)}
    assert sorted(folders.values()) == ["/disk/1", "/disk/2"]
    wait_until(lambda: bytes_saved(store, first) >= VALUES * VALUE_BYTES, WRITTEN_LIMIT_S, "it is on the disk")
    files = {folder: files_of(store, first, folder) for folder in folders.values()}
    assert all(files.values()), "each owner has written some"

    store.kill_and_wait(OWNER, first)
    store.wait_for_memory()
    assert {each: folder_of(store, each) for each in (first, second)} == folders
    assert {folder: files_of(store, first, folder) for folder in folders.values()} == files
    wait_until(lambda: all_are_there(store), LOADED_LIMIT_S, "it has loaded what it had")

    store.kill_and_wait(OWNER, first, second)
    store.wait_for_memory()
    assert {folder_of(store, each) for each in (first, second)} == {*folders.values()}
    wait_until(lambda: all_from_disk(store), LOADED_LIMIT_S, "all are loaded from the disk")


def test_what_is_on_the_disk_lasts_as_long_as_its_volume(store: StoreProject) -> None:
    """The containers are new ones, as after `docker compose down`."""
    before = store.container_ids("store")
    store.compose("rm", "--stop", "--force", "store-master", "store")
    began = time.monotonic()
    store.start_store()
    assert not {*before} & {*store.container_ids("store")}
    wait_until(lambda: all_from_disk(store), LOADED_LIMIT_S, "all are loaded from the disk")
    log.warning("all from the disk %.1f s after the start", time.monotonic() - began)


def all_are_there(store: StoreProject) -> bool:
    right, wrong, _ = store.get(0, VALUES)
    assert wrong == 0
    return right == VALUES


def all_from_disk(store: StoreProject) -> bool:
    right, wrong, on_disk = store.get(0, VALUES)
    log.warning("%d values, %d of them from the disk", right, on_disk)
    assert wrong == 0
    return right == on_disk == VALUES


def in_owner(store: StoreProject, container: str, command: str) -> str:
    return store.docker("exec", container, "sh", "-c", command).strip()


def folder_of(store: StoreProject, container: str) -> str:
    return in_owner(store, container, FOLDER)


def files_of(store: StoreProject, container: str, folder: str) -> list[str]:
    """Of the owner of `folder`; any container of one sees them all."""
    return sorted(in_owner(store, container, f"find {folder} -type f").splitlines())


def bytes_saved(store: StoreProject, container: str) -> int:
    """In the files of all owners, without what the owners note beside them."""
    sizes = in_owner(store, container, "find /disk -name '*.bucket' -printf '%s\\n'").split()
    return sum(map(int, sizes))
