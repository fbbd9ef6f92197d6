"""A store of which a part is gone, hangs or is full: no error, no other text, and nobody waits for it for long.

vLLM's own connector, asked without the bounds of `connector/store`, has been seen to leave a stream without a token for
61 s, and a request without an answer for 91 s. The limits here are far from both sides.
"""

import asyncio
import logging
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.store.conftest import Prompts
from tests.store.processes import SEGMENT_BYTES, How, Part, Store
from tests.store.servers import Servers, assert_in_use_again
from tests.store.streams import streams, timed
from tests.tiny_servers.instances import BLOCK_TOKENS, Fleet, Tokens, answers_of

log = logging.getLogger(__name__)

GAP_LIMIT_S = 4.0
ANSWER_LIMIT_S = 25.0
ROUND_S = 2
WITHOUT_STORE = "does without the KV store"  # what a server logs of a request
LENGTHS = (600, 601, 602, 603)
TOKEN_BYTES = 2048  # of the model's cache


@pytest.fixture(scope="module")
def servers(store: Store, fleet: Fleet, model: Path) -> Iterator[Servers]:
    started = Servers(fleet, model)
    yield started
    fleet.stop_all()


@pytest.mark.parametrize(
    ("part", "how", "seconds"),
    # A load from an owner that is stopped ends after 60 s, before the owner goes on.
    [("owner", "killed", 20), ("owner", "stopped", 75), ("master", "killed", 20), ("master", "stopped", 20)],
)
async def test_a_part_of_the_store_fails(
    servers: Servers, store: Store, prompts: Prompts, part: Part, how: How, seconds: int
) -> None:
    rounds = range(seconds // ROUND_S)
    asked = prompts(*LENGTHS, *LENGTHS, 20, *(200 for _ in rounds), *(300 for _ in rounds))
    known, new, stream, asked = asked[:4], asked[4:8], asked[8], asked[9:]
    known_later, new_later = asked[: len(rounds)], asked[len(rounds) :]
    await servers.by(servers.first, known + known_later)
    servers.wait_until_saved()
    expected = await servers.expected(known + new + known_later + new_later)
    before = servers.second.log.count(WITHOUT_STORE)

    async with streams(servers, stream) as running:
        with store.failing(part, how), running.measured() as gaps:
            # What the store has, or seems to have, and what it has not.
            (found, longest), of_aggregated = await asyncio.gather(
                timed(servers, servers.second, known), answers_of(servers.aggregated, new)
            )
            later = []
            for one, other in zip(known_later, new_later, strict=True):
                began = time.monotonic()
                later.append(await timed(servers, servers.second, [one, other]))
                await asyncio.sleep(max(0.0, began + ROUND_S - time.monotonic()))
    longest_later = max(took for _, took in later)
    log.warning("%s %s: answers within %.1f s, later %.1f s", part, how, longest, longest_later)

    answers_later = [answers for answers, _ in later]
    found += of_aggregated + [one for one, _ in answers_later] + [other for _, other in answers_later]
    assert found == expected
    assert max(gaps.values()) < GAP_LIMIT_S
    assert max(longest, longest_later) < ANSWER_LIMIT_S
    assert servers.second.log.count(WITHOUT_STORE) > before, "the failure was not met"
    await assert_in_use_again(servers, store, prompts)


async def test_a_store_that_is_full(servers: Servers, store: Store, prompts: Prompts) -> None:
    room = SEGMENT_BYTES // TOKEN_BYTES
    asked, stream = prompts(*[3000] * (2 * room // 3000)), prompts(20)[0]
    expected = await servers.expected(asked)

    async with streams(servers, stream) as running:
        with running.measured() as gaps:
            found = await in_turn(servers, asked)
    servers.wait_until_saved()

    assert found == expected
    assert max(gaps.values()) < GAP_LIMIT_S
    assert 0 < store.keys <= room // BLOCK_TOKENS
    log.warning("full: %d keys, %d evicted", store.keys, store.evicted)
    await assert_in_use_again(servers, store, prompts)


@pytest.mark.parametrize("how", ["killed", "stopped"])
async def test_instances_that_start_while_the_master_is_away_join_later(
    servers: Servers, store: Store, prompts: Prompts, how: How
) -> None:
    asked = prompts(*LENGTHS)
    expected = await servers.expected(asked)

    with store.failing("master", how):
        servers.restart()
        assert await servers.by(servers.first, asked) == expected
    await assert_in_use_again(servers, store, prompts)


async def in_turn(servers: Servers, asked: list[Tokens]) -> list[Tokens]:
    return [answer for prompt in asked for answer in await servers.by(servers.first, [prompt])]
