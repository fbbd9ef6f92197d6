"""What all servers of this folder share, and the models, which are written once."""

from pathlib import Path

import pytest

from tests.integration.caches import models, write_models
from tests.tiny_servers.fixtures import etcd_endpoint, fleet, folder

__all__ = ["etcd_endpoint", "fleet", "folder", "models_folder"]


@pytest.fixture(scope="package")
def models_folder(folder: Path) -> Path:
    """A folder of each model's name is in it."""
    return write_models.written(folder / "models", {served.name: served.config for served in models.ALL})
