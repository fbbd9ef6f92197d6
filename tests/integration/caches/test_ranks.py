"""Producers and consumers of one rank and of two: heads go to where they belong, in every group.

A state has no heads that can be told apart, so that both sides must have as many ranks.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.caches import models
from tests.integration.caches.servers import Trio
from tests.tiny_servers.instances import Fleet

PAIRS = [
    ("gemma-3", 1, 2),
    ("gemma-3", 2, 1),
    ("gemma-4-unequal-one-group", 1, 2),
    ("nemotron-h", 2, 2),
]
LENGTHS = [1, 33, 64, 65, 159, 160, 161, 300, 700]


@pytest.fixture(params=PAIRS, ids=[f"{name}, {producer} to {consumer}" for name, producer, consumer in PAIRS])
def trio(request: pytest.FixtureRequest, fleet: Fleet, models_folder: Path) -> Iterator[Trio]:
    """After its test none of its blocks is in use."""
    name, producer, consumer = request.param
    served = models.BY_NAME[name]
    started = Trio.start(fleet, models_folder, served, ranks={"prefill": producer, "decode": consumer})
    yield started
    started.assert_idle()
    fleet.stop_all()


async def test_ranks(trio: Trio) -> None:
    await trio.assert_same(trio.prompts("ranks", LENGTHS))


async def test_states_of_other_ranks_are_refused(fleet: Fleet, models_folder: Path) -> None:
    """The consumer computes the prompt itself, and both say why."""
    trio = Trio.start(fleet, models_folder, models.BY_NAME["nemotron-h"], ranks={"prefill": 2})
    prompts = trio.prompts("refused", [100])
    found = await trio.transferred(prompts)
    assert not await trio.different(prompts, found)
    assert not found[0].facts
    for server in (trio.producer, trio.consumer):
        assert "wrong layout" in server.log
    fleet.stop_all()
