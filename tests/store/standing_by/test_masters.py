"""STORE_MASTERS=2: what one master knew the other one knows, after a kill and beside a leader that hangs."""

import logging
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.etcd_process import EtcdProcess
from tests.real_stack import wait_until
from tests.store.processes import How
from tests.store.standing_by.masters import TwoMasters

log = logging.getLogger(__name__)

VALUES = 100
WRITTEN_S = 2.0  # what was saved in the last moment is not in the log yet
TAKE_OVER_LIMIT_S = 60.0


@pytest.fixture
def store(tmp_path: Path) -> Iterator[TwoMasters]:
    etcd = EtcdProcess(tmp_path / "etcd")
    etcd.start()
    try:
        with TwoMasters(tmp_path, etcd.endpoint) as started:
            yield started
    finally:
        etcd.stop()


@pytest.mark.parametrize("how", ["killed", "stopped"])
def test_the_other_one_knows_what_the_leader_knew(store: TwoMasters, how: How) -> None:
    assert store.put(0, VALUES) == VALUES
    time.sleep(WRITTEN_S)
    leader, began = store.leader, time.monotonic()

    with store.failing(leader, how):
        wait_until(lambda: store.leaders not in ([], [leader]), TAKE_OVER_LIMIT_S, f"the other one leads:\n{store.log}")
        log.warning("%s: another leader after %.1f s", how, time.monotonic() - began)
        store.wait_for_memory()
        assert store.keys == VALUES
        assert store.get(0, VALUES) == (VALUES, 0, 0)
        assert store.put(VALUES, VALUES) == VALUES
    wait_until(lambda: len(store.leaders) == 1, TAKE_OVER_LIMIT_S, f"one leads:\n{store.log}")
    assert store.leader != leader
    assert store.get(0, 2 * VALUES) == (2 * VALUES, 0, 0)
