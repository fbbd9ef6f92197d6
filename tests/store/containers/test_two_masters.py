"""STORE_MASTERS=2 in containers: what one master knew the other one knows, and one that comes back stands by."""

import logging
import time
from collections.abc import Iterator

import pytest

from stack.store.cluster import LEADER_KEY
from tests.real_stack import wait_until
from tests.store.containers.project import MASTER, OWNER, StoreProject, assert_locked_in

log = logging.getLogger(__name__)

VALUES = 96
OWNER_BYTES = 64 << 20  # of which nothing is evicted here
AWAY_S = 5.0
WRITTEN_S = 2.0  # what was saved in the last moment is not in the log yet
TAKE_OVER_LIMIT_S = 90.0

pytestmark = pytest.mark.timeout(3000)  # the first test waits for the images


@pytest.fixture(scope="module")
def store() -> Iterator[StoreProject]:
    project = StoreProject(masters=2, owners=1, owner_bytes=OWNER_BYTES)
    with project.taken_down():
        project.start_store()
        yield project


def test_both_masters_are_locked_in_and_started_at_once(store: StoreProject) -> None:
    containers = store.inspect("store-master", "store")
    assert len(containers) == 3
    for container in containers:
        assert_locked_in(container, f"{store.name}_inside")
        assert container["RestartCount"] == 0
    assert not any(container["Mounts"] for container in store.inspect("store-master"))


def test_the_other_master_takes_over_and_the_first_one_stands_by(store: StoreProject) -> None:
    assert store.put(0, VALUES) == VALUES
    time.sleep(WRITTEN_S)
    (leader,) = store.leaders
    began = time.monotonic()

    store.docker("kill", leader)  # so that it stays away
    wait_until(lambda: store.leaders not in ([], [leader]), TAKE_OVER_LIMIT_S, "the other one leads")
    log.warning("another leader after %.1f s", time.monotonic() - began)
    store.wait_for_memory()
    log.warning("with memory after %.1f s", time.monotonic() - began)
    assert store.get(0, VALUES) == (VALUES, 0, 0)
    assert store.put(VALUES, VALUES) == VALUES

    (other,) = store.leaders
    store.docker("start", leader)
    wait_until(lambda: store.is_healthy(leader), TAKE_OVER_LIMIT_S, "the first one is back")
    assert store.leaders == [other]
    assert store.get(0, 2 * VALUES) == (2 * VALUES, 0, 0)


@pytest.mark.parametrize("program", [MASTER, OWNER])
def test_a_part_that_dies_is_started_again(store: StoreProject, program: str) -> None:
    first = {MASTER: 1000, OWNER: 2000}[program]
    assert store.put(first, VALUES) == VALUES
    time.sleep(WRITTEN_S)
    (container,) = store.leaders if program == MASTER else store.container_ids("store")

    store.kill_and_wait(program, container)
    store.wait_for_memory()
    if program == MASTER:  # whoever leads now
        wait_until(lambda: store.get(first, VALUES) == (VALUES, 0, 0), TAKE_OVER_LIMIT_S, "what was saved is found")
    wait_until(lambda: store.put(first + VALUES, VALUES) == VALUES, TAKE_OVER_LIMIT_S, "it is in use again")
    assert store.get(first + VALUES, VALUES) == (VALUES, 0, 0)


def test_an_owner_that_starts_while_nobody_leads_waits(store: StoreProject) -> None:
    """As after a start of the machine. Mooncake's own program would end after 2 s."""
    masters = store.container_ids("store-master")
    (owner,) = store.container_ids("store")
    store.docker("stop", *masters)
    wait_until(lambda: leader_in_etcd(store) == "", TAKE_OVER_LIMIT_S, "the leader's lease is over")
    store.docker("restart", "--time", "1", owner)
    time.sleep(AWAY_S)

    store.docker("start", *masters)
    wait_until(lambda: store.is_healthy(owner), TAKE_OVER_LIMIT_S, "the owner is healthy")
    store.wait_for_memory()
    assert store.restarts(owner) == 0
    assert store.put(0, VALUES) == VALUES


def leader_in_etcd(store: StoreProject) -> str:
    return store.compose("exec", "-T", "etcd", "etcdctl", "--endpoints=127.0.0.1:2379", "get", LEADER_KEY).strip()
