"""What one server has computed another loads from the store, and the answers are a plain server's."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.real_stack import wait_until
from tests.store.conftest import Prompts
from tests.store.processes import Store
from tests.store.servers import IDLE_LIMIT_S, Servers, from_store, whole_blocks
from tests.tiny_servers.instances import BLOCK_TOKENS, Fleet, Serving, answers_of

LENGTHS = [1, 31, 32, 33, 513, 1500, 2900]  # around one block, around one chunk, and longer
IN_STORE = sum(map(whole_blocks, LENGTHS))
LONG_ANSWER = 100  # tokens, some blocks


@pytest.fixture(scope="module")
def servers(store: Store, fleet: Fleet, model: Path) -> Iterator[Servers]:
    # A busy machine may take longer than the default to answer a lookup, which is then no hit.
    started = Servers(fleet, model, STORE_LOOKUP_TIMEOUT_S="1")
    yield started
    fleet.stop_all()


async def test_an_empty_store(servers: Servers, store: Store, prompts: Prompts) -> None:
    asked = prompts(*LENGTHS)
    before = from_store(servers.first)

    assert await servers.by(servers.first, asked) == await servers.expected(asked)
    servers.wait_until_saved()
    assert from_store(servers.first) == before
    assert store.keys >= IN_STORE // BLOCK_TOKENS


async def test_what_one_producer_has_computed_the_other_one_loads(servers: Servers, prompts: Prompts) -> None:
    asked = prompts(*LENGTHS)
    await servers.by(servers.first, asked)
    servers.wait_until_saved()
    before = from_store(servers.second)

    assert await servers.by(servers.second, asked) == await servers.expected(asked)
    servers.wait_until_saved()
    assert from_store(servers.second) - before == IN_STORE


async def test_from_a_store_that_was_emptied_nothing_is_loaded(
    servers: Servers, store: Store, prompts: Prompts
) -> None:
    """The control of the test above."""
    asked = prompts(*LENGTHS)
    await servers.by(servers.first, asked)
    servers.wait_until_saved()
    store.empty()
    before = from_store(servers.second)

    assert await servers.by(servers.second, asked) == await servers.expected(asked)
    servers.wait_until_saved()
    assert from_store(servers.second) == before


async def test_what_is_not_worth_a_load_is_computed(
    servers: Servers, fleet: Fleet, model: Path, prompts: Prompts
) -> None:
    asked = prompts(*LENGTHS)
    await servers.by(servers.first, asked)
    servers.wait_until_saved()
    choosy = fleet.start("prefill", Serving(model, variables={**servers.variables, "STORE_LOAD_MIN_TOKENS": "1000"}))
    fleet.wait()

    assert await servers.by(choosy, asked) == await servers.expected(asked)
    wait_until(choosy.is_idle, IDLE_LIMIT_S, "nothing is computed or waits to be saved")
    assert from_store(choosy) == whole_blocks(1500) + whole_blocks(2900)


async def test_a_chats_next_turn_finds_the_answer_that_another_pair_has_computed(
    servers: Servers, prompts: Prompts
) -> None:
    (turn,) = prompts(700)
    news = iter(prompts(40, 41, 42))
    local = {servers.first: 0, servers.second: 0}
    saved = 0
    pairs = [(servers.first, servers.consumer), (servers.second, servers.other_consumer)]
    for producer, consumer in (*pairs, pairs[0]):
        before = from_store(producer)
        answers = await servers.by(producer, [turn], consumer, max_tokens=LONG_ANSWER)
        servers.wait_until_saved()

        assert answers == await servers.expected([turn], max_tokens=LONG_ANSWER)
        assert from_store(producer) - before == saved - min(saved, local[producer])
        local[producer] = len(turn) // BLOCK_TOKENS * BLOCK_TOKENS
        saved = whole_blocks(len(turn) + LONG_ANSWER)  # of the last token there is no cache yet
        assert saved > local[producer], "a part of the answer"
        turn = turn + answers[0] + next(news)


async def test_an_aggregated_server_loads_prompts_and_answers_of_the_time_before_its_restart(
    servers: Servers, prompts: Prompts
) -> None:
    asked = prompts(*LENGTHS)
    more = {"cache_salt": "kept", "max_tokens": LONG_ANSWER}
    found = await answers_of(servers.aggregated, asked, **more)
    servers.wait_until_saved()
    servers.restart()

    assert found == await servers.expected(asked, max_tokens=LONG_ANSWER)
    turns = [prompt + answer + prompt[:1] for prompt, answer in zip(asked, found, strict=True)]
    again = await answers_of(servers.aggregated, turns, **more)
    servers.wait_until_saved()
    assert again == await servers.expected(turns, max_tokens=LONG_ANSWER)
    assert from_store(servers.aggregated) == sum(whole_blocks(length + LONG_ANSWER) for length in LENGTHS)


async def test_after_a_restart_of_every_instance_nothing_is_computed_again(servers: Servers, prompts: Prompts) -> None:
    asked = prompts(*LENGTHS)
    await servers.by(servers.first, asked)
    servers.wait_until_saved()
    servers.restart()

    for producer in (servers.first, servers.second):
        assert await servers.by(producer, asked) == await servers.expected(asked)
        servers.wait_until_saved()
        assert from_store(producer) == IN_STORE
