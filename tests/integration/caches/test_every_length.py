"""At every length around the edges of windows, chunks, blocks and steps the answer is a plain server's.

Tokens alone would not show it: an answer hangs on one block of a window by a log probability of about one.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.caches import models
from tests.integration.caches.models import STEP_TOKENS, WINDOW, Served
from tests.integration.caches.servers import Trio
from tests.tiny_servers.instances import Fleet


@pytest.fixture(scope="module", params=models.ALL, ids=list(models.BY_NAME))
def trio(request: pytest.FixtureRequest, fleet: Fleet, models_folder: Path) -> Iterator[Trio]:
    """After its tests none of its blocks is in use."""
    started = Trio.start(fleet, models_folder, request.param)
    yield started
    started.assert_idle()
    fleet.stop_all()


def lengths(served: Served) -> list[int]:
    """In each the last window begins at another place of a block, and the prompt ends at another one."""
    edges = (served.block_size, WINDOW, 2 * STEP_TOKENS, 512)
    around = {edge + offset for edge in edges for offset in (-1, 0, 1, 2)}
    two_blocks = range(2 * WINDOW - 1, 2 * WINDOW + 2 * min(served.block_size, WINDOW) + 2)
    return sorted({1, 2, 3, 300, 700} | around | set(two_blocks))


async def test_every_length(trio: Trio) -> None:
    prompts = trio.prompts("lengths", lengths(trio.served))
    for prompt, facts in zip(prompts, await trio.assert_same(prompts), strict=True):
        assert facts.get("tokens", 0) >= len(prompt) - 1


async def test_one_at_a_time(trio: Trio) -> None:
    """Alone a prompt's steps end at multiples of their size."""
    edges = [edge + offset for edge in (STEP_TOKENS, 3 * STEP_TOKENS) for offset in (-1, 0, 1, 2)]
    await trio.assert_same(trio.prompts("alone", edges), at_once=1)


async def test_the_comparison_shows_a_cache_that_did_not_come(fleet: Fleet, trio: Trio) -> None:
    """Negative control: the producer says that it has written everything, and nothing has come."""
    # Of what lay in the blocks before a bfloat16 model makes numbers so large that vLLM cannot answer.
    noticed = "log probabilities differ|not JSON compliant"
    fleet.drop_writes.touch()
    try:
        for prompt in trio.prompts("lost", [33, 100, 160, 300, 700]):
            with pytest.raises(AssertionError, match=noticed):
                await trio.assert_same([prompt])
    finally:
        fleet.drop_writes.unlink()
