"""What the tests of the store share. Each file starts servers of its own, as they have other bounds."""

import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests import tiny_models
from tests.store.processes import Store
from tests.tiny_models import END_OF_TEXT
from tests.tiny_servers.fixtures import etcd_endpoint, fleet, folder
from tests.tiny_servers.instances import Tokens

__all__ = ["etcd_endpoint", "fleet", "folder", "model", "prompts", "store"]

Prompts = Callable[..., list[Tokens]]


@pytest.fixture(scope="package")
def store(folder: Path) -> Iterator[Store]:
    with Store(folder) as started:
        yield started


@pytest.fixture(scope="package")
def model(folder: Path) -> Path:
    return tiny_models.grouped_query(2).write(folder / "models")


@pytest.fixture
def prompts(request: pytest.FixtureRequest) -> Prompts:
    """Of the given lengths, that no other test uses."""
    numbers = random.Random(request.node.name)

    def of_lengths(*lengths: int) -> list[Tokens]:
        return [[numbers.randrange(END_OF_TEXT) for _ in range(length)] for length in lengths]

    return of_lengths
