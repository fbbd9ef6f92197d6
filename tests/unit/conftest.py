"""What the unit tests of several packages share."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.etcd_process import EtcdProcess


@pytest.fixture
def etcd_server(tmp_path: Path) -> Iterator[EtcdProcess]:
    """A real etcd that only this test uses."""
    process = EtcdProcess(tmp_path)
    process.start()
    yield process
    process.stop()
