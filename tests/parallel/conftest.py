"""What forked servers of this folder share, and models of tests/integration/caches."""

from pathlib import Path

import pytest

from tests.integration.caches import models, write_models
from tests.tiny_servers.fixtures import etcd_endpoint, fleet, folder

__all__ = ["etcd_endpoint", "fleet", "folder", "models_folder"]
USED = ("deepseek-v3", "llama")


@pytest.fixture(scope="package")
def models_folder(folder: Path) -> Path:
    """A folder of each model's name is in it."""
    return write_models.written(folder / "models", {name: models.BY_NAME[name].config for name in USED})
