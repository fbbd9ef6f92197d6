"""Producers and consumers of one rank and of two: heads go to where they belong, in every group.

A state has no heads that can be told apart, so that both sides must have as many ranks.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.caches import models
from tests.integration.caches.servers import Trio
from tests.tiny_servers.instances import Fleet

HEADS = ["gemma-3", "gemma-4-unequal", "gemma-4-unequal-one-group", "gpt-oss", "llama-4"]
STATES = ["nemotron-h", "falcon-h1"]
Ranks = tuple[int, int]
LENGTHS = [1, 33, 63, 64, 65, 130, 159, 160, 161, 300, 700]


@pytest.fixture(
    scope="module",
    params=[
        pytest.param((name, ranks), id=f"{name}, {ranks[0]} to {ranks[1]}")
        for names, pairs in ((HEADS, ((1, 2), (2, 1))), (STATES, ((2, 2),)))
        for name in names
        for ranks in pairs
    ],
)
def trio(request: pytest.FixtureRequest, fleet: Fleet, models_folder: Path) -> Iterator[Trio]:
    """After its tests none of its blocks is in use."""
    name, (producer, consumer) = request.param
    served = models.BY_NAME[name]
    started = Trio.start(fleet, models_folder, served, ranks={"prefill": producer, "decode": consumer})
    yield started
    started.assert_idle()
    fleet.stop_all()


async def test_ranks(trio: Trio) -> None:
    await trio.assert_same(trio.prompts("ranks", LENGTHS))


@pytest.mark.parametrize("ranks", [(1, 2), (2, 1)], ids=lambda ranks: f"{ranks[0]} to {ranks[1]}")
async def test_states_of_other_ranks_are_refused(fleet: Fleet, models_folder: Path, ranks: Ranks) -> None:
    """The consumer computes the prompt itself, and says why."""
    producer, consumer = ranks
    trio = Trio.start(
        fleet, models_folder, models.BY_NAME["nemotron-h"], ranks={"prefill": producer, "decode": consumer}
    )
    prompts = trio.prompts("refused", [100])
    found = await trio.transferred(prompts)
    assert not await trio.different(prompts, found)
    assert not found[0].facts
    fleet.stop_all()
