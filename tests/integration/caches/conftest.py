"""What all servers of this folder share, and the models, which are written once."""

import json
import subprocess
from pathlib import Path

import pytest

from stack.settings import REPOSITORY
from tests.integration.caches import models, write_models
from tests.tiny_servers.fixtures import etcd_endpoint, fleet, folder

__all__ = ["etcd_endpoint", "fleet", "folder", "models_folder"]


@pytest.fixture(scope="package")
def models_folder(folder: Path) -> Path:
    """A folder of each model's name is in it."""
    written = folder / "models"
    subprocess.run(
        [REPOSITORY / ".stack/venv/vllm/bin/python", "-m", write_models.__name__, written],
        cwd=REPOSITORY,
        input=json.dumps({served.name: served.config for served in models.ALL}),
        text=True,
        check=True,
    )
    return written
