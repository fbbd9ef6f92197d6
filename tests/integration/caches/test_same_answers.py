"""By a transfer come a plain server's answers, at every length around the edges of windows, chunks, blocks and steps.

Tokens alone would not show that one block of a window is missing: log probabilities then differ by about one.
"""

import re
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.caches import answers, models
from tests.integration.caches.models import STEP_TOKENS, WINDOW, Served
from tests.integration.caches.servers import Trio
from tests.tiny_servers.instances import Fleet, Tokens

SHORT, LONG = 316, 700  # the difference is a number of whole blocks


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
    return sorted({1, 2, 3, SHORT, LONG} | around | set(two_blocks))


async def test_every_length(trio: Trio) -> None:
    asked = lengths(trio.served)
    facts = dict(zip(asked, await trio.assert_same(trio.prompts("lengths", asked)), strict=True))
    assert all(facts[length]["tokens"] >= length - 1 for length in asked if length > 1)
    if trio.served.is_bounded:
        assert facts[LONG]["bytes"] == facts[SHORT]["bytes"], "what nobody will look at again need not be moved"


async def test_one_at_a_time(trio: Trio) -> None:
    """Alone a prompt's steps end at multiples of their size."""
    edges = [edge + offset for edge in (STEP_TOKENS, 3 * STEP_TOKENS) for offset in (-1, 0, 1, 2)]
    await trio.assert_same(trio.prompts("alone", edges), at_once=1)


@pytest.mark.parametrize("where", ["producer", "consumer", "both"])
async def test_prefix_hits(trio: Trio, where: str) -> None:
    """One side or both have the prompt's beginning, then all of it: only what the consumer lacks is moved."""
    asked = trio.served.prefixed
    salt = uuid.uuid4().hex
    prompts = trio.prompts(where, asked)
    warmed = {"producer": [trio.producer], "consumer": [trio.consumer], "both": [trio.producer, trio.consumer]}
    for server in warmed[where]:
        await answers.plain(server, [prompt[: len(prompt) * 2 // 3] for prompt in prompts], cache_salt=salt)
    first = await trio.assert_same(prompts, cache_salt=salt)
    again = await trio.assert_same(prompts, cache_salt=salt)
    moved = [sum(facts["tokens"] for facts in all_facts) for all_facts in (first, again)]
    everything = sum(asked) - len(asked)  # without the last tokens, at least
    if not trio.served.caches_prefixes:
        assert min(moved) >= everything
    else:
        assert moved[0] >= everything if where == "producer" else moved[0] < everything * 2 / 3
        # Of a state only the one behind the whole prompt comes, which no other prompt can go on from.
        assert moved[1] == moved[0] if trio.served.has_state else moved[1] < everything / 2


# Of what lay in the blocks before a bfloat16 model makes numbers so large that vLLM cannot answer.
NOTICED = "log probabilities differ|not JSON compliant"
# Of a model that differs from itself one group's part, or a whole prompt's, may be less than that.
EXACT = [served for served in models.ALL if served.tolerance is not None]


async def differs(trio: Trio, prompt: Tokens) -> bool:
    try:
        await trio.assert_same([prompt])
    except AssertionError as difference:
        if not re.search(NOTICED, str(difference)):
            raise
        return True
    return False


async def test_the_comparison_shows_a_cache_that_did_not_come(fleet: Fleet, trio: Trio) -> None:
    """Negative control: the producer says that it has written everything, and nothing has come.

    Seen in every prompt; in most where a model differs from itself about as much as some answers then do.
    """
    prompts = trio.prompts("lost", [33, 100, 160, 300, 700])
    noticed = 0
    fleet.drop_writes.touch()
    try:
        for prompt in prompts:
            noticed += await differs(trio, prompt)
    finally:
        fleet.drop_writes.unlink()
    assert noticed == len(prompts) if trio.served in EXACT else noticed > len(prompts) / 2


@pytest.mark.parametrize("trio", EXACT, ids=[served.name for served in EXACT], indirect=True)
async def test_the_comparison_shows_a_group_that_did_not_come(fleet: Fleet, trio: Trio) -> None:
    """Negative control: the others have come."""
    for group in range(trio.served.groups):
        fleet.unmoved.write_text(f"^group {group}:")
        try:
            for prompt in trio.prompts(f"forgotten {group}", [160, 700]):
                with pytest.raises(AssertionError, match=NOTICED):
                    await trio.assert_same([prompt])
        finally:
            fleet.unmoved.unlink()
