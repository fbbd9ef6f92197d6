"""What the servers of this folder share; their model is one of tests/integration/caches."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from connector.control.control_key import ControlKey
from tests.integration.caches import models, write_models
from tests.integration.caches.servers import Trio
from tests.integration.first_token.legs import CACHE_BYTES, Legs
from tests.tiny_servers.fixtures import etcd_endpoint, fleet, folder
from tests.tiny_servers.instances import STACK_KEY, Fleet

__all__ = ["etcd_endpoint", "fleet", "folder"]
SERVED = models.BY_NAME["llama"]


@pytest.fixture(scope="package")
def models_folder(folder: Path) -> Path:
    return write_models.written(folder / "models", {SERVED.name: SERVED.config})


@pytest.fixture(scope="module")
def trio(fleet: Fleet, models_folder: Path) -> Iterator[Trio]:
    """Bytes are compared, so that what came is right; caches are small, so that answers preempt each other."""
    variables = {
        "TRANSFER_CHECKSUM": "true",
        "TRANSFER_PATIENCE_S": "5",
        "TRANSFER_TIMEOUT_S": "20",
        "TRANSFER_CANCEL_TIMEOUT_S": "22",
        "KV_CACHE_BYTES": str(CACHE_BYTES),
    }
    yield Trio.start(fleet, models_folder, SERVED, variables=variables)
    fleet.stop_all()


@pytest.fixture
def legs(trio: Trio) -> Iterator[Legs]:
    """After the test as many blocks are free as before it."""
    free = trio.free_blocks()
    yield Legs(trio, ControlKey.from_secret(STACK_KEY))
    if not trio.producer.has_ended:
        assert trio.free_blocks() == free
