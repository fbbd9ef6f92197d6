"""What the unit tests of several packages share."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from stack import etcd
from stack.etcd import rpc  # noqa: F401  before a test module that imports protobuf for something else
from tests.etcd_process import EtcdProcess

# The same examples everywhere, and no verdict by the clock: a busy machine is no failure.
settings.register_profile("tests", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("tests")


@pytest.fixture
def etcd_server(tmp_path: Path) -> Iterator[EtcdProcess]:
    """A real etcd that only this test uses."""
    process = EtcdProcess(tmp_path)
    process.start()
    yield process
    process.stop()


@pytest.fixture
def registry(etcd_server: EtcdProcess) -> Iterator[Any]:
    """A client of that etcd."""
    with etcd.connect(etcd_server.endpoint) as client:
        yield client
