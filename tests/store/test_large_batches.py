"""More buffers in one save or load than Mooncake's TCP transport takes at once, with what an instance is told."""

import os
import subprocess
from pathlib import Path

import pytest

from connector.instance import store as instances_store
from stack.configuration.environment import load
from stack.configuration.settings import REPOSITORY
from stack.instances.settings import LauncherSettings
from tests.store.large_batch import BUFFERS, BYTES, KEYS
from tests.store.processes import HOST, PROGRAMS, Store

LIMIT_S = 60.0
WHOLE = [KEYS, KEYS, KEYS * BUFFERS * BYTES]


@pytest.mark.parametrize("way", ["direct", "staged"])
def test_a_large_batch_arrives_whole(store: Store, tmp_path: Path, way: str) -> None:
    assert a_large_batch(store, tmp_path, way) == WHOLE


def a_large_batch(store: Store, folder: Path, way: str = "direct") -> list[int]:
    """What `large_batch.py` prints, run with what an instance is told."""
    settings = load(LauncherSettings, vllm_distributed_kv_role="aggregated", store_master=store.address)
    told = instances_store.environment(settings, str(folder), {})
    ended = subprocess.run(
        [str(PROGRAMS / "python"), "-m", "tests.store.large_batch", HOST, store.address, way],
        cwd=REPOSITORY,
        env={**os.environ, **told},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    return [int(word) for word in ended.stdout.split()]
