"""The masters' log in etcd has a bound: then it is deleted, and the store is empty."""

import json
from pathlib import Path

from stack.store import cluster
from tests import etcd_http
from tests.etcd_process import EtcdProcess
from tests.real_stack import wait_until
from tests.store.large_batch import KEYS
from tests.store.standing_by.masters import TwoMasters
from tests.store.test_large_batches import WHOLE, a_large_batch

BEGUN_LIMIT_S = 60.0


def test_a_log_that_is_too_long_is_deleted_and_the_store_begins_anew(tmp_path: Path) -> None:
    etcd = EtcdProcess(tmp_path / "etcd")
    etcd.start()
    try:
        assert not cluster.has_leader(cluster.address(etcd.endpoint))
        with TwoMasters(tmp_path, etcd.endpoint, largest_log=KEYS + 50) as store:
            assert cluster.has_leader(store.address)
            assert a_large_batch(store, tmp_path) == WHOLE
            assert store.keys == KEYS
            a_large_batch(store, tmp_path)  # of which the end may come in its midst
            wait_until(lambda: entries(etcd) < KEYS, BEGUN_LIMIT_S, f"the log was deleted:\n{store.log}")
            store.wait_for_memory()
            assert store.keys == 0
            assert a_large_batch(store, tmp_path) == WHOLE
            assert store.keys == KEYS
    finally:
        etcd.stop()


def entries(etcd: EtcdProcess) -> int:
    found = etcd_http.under(f"http://{etcd.endpoint}", "/oplog/pd-stack/durable_prefix")
    return max((int(json.loads(value)["last_seq"]) for value in found.values()), default=0)
