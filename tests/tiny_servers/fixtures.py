"""What all servers of a folder of tests share: what starts them, an etcd, and a folder. For its `conftest.py`."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.etcd_process import EtcdProcess
from tests.tiny_servers.instances import Fleet


@pytest.fixture(scope="package")
def etcd_endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    process = EtcdProcess(tmp_path_factory.mktemp("etcd"))
    process.start()
    yield process.endpoint
    process.stop()


@pytest.fixture(scope="package")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of models and logs."""
    return tmp_path_factory.mktemp("tiny")


@pytest.fixture(scope="package")
def fleet(folder: Path, etcd_endpoint: str) -> Iterator[Fleet]:
    with Fleet(folder, etcd_endpoint) as started:
        yield started
