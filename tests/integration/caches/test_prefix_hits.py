"""Prompts whose beginning one side or both have from before: what is missing is moved, and the answer is the same."""

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.caches import answers, models
from tests.integration.caches.servers import Trio
from tests.tiny_servers.instances import Fleet

LENGTHS = [200, 300, 500, 700]
CACHING = [served for served in models.ALL if served.caches_prefixes]


@pytest.fixture(scope="module", params=CACHING, ids=[served.name for served in CACHING])
def trio(request: pytest.FixtureRequest, fleet: Fleet, models_folder: Path) -> Iterator[Trio]:
    """After its tests none of its blocks is in use."""
    started = Trio.start(fleet, models_folder, request.param)
    yield started
    started.assert_idle()
    fleet.stop_all()


@pytest.mark.parametrize("where", ["producer", "consumer", "both"])
async def test_prefix_hits(trio: Trio, where: str) -> None:
    salt = uuid.uuid4().hex
    prompts = trio.prompts(where, LENGTHS)
    warmed = {"producer": [trio.producer], "consumer": [trio.consumer], "both": [trio.producer, trio.consumer]}
    for server in warmed[where]:
        await answers.plain(server, [prompt[: len(prompt) * 2 // 3] for prompt in prompts], cache_salt=salt)
    first = await trio.assert_same(prompts, cache_salt=salt)
    again = await trio.assert_same(prompts, cache_salt=salt)  # now both sides have all of each prompt
    missing = [sum(facts["tokens"] for facts in all_facts) for all_facts in (first, again)]
    assert missing[1] < sum(LENGTHS) / 2
    if where == "producer":
        assert missing[0] >= sum(LENGTHS) - len(LENGTHS)
    else:
        assert missing[0] < sum(LENGTHS) * 2 / 3, "what the consumer has already need not be moved"
