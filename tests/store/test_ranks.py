"""Instances of two ranks share what they compute; one of another size finds nothing of it, and answers the same."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from stack.instances.record import Role
from tests.real_stack import wait_until
from tests.store.conftest import Prompts
from tests.store.processes import Store
from tests.store.servers import IDLE_LIMIT_S, from_store, whole_blocks
from tests.tiny_servers.instances import (
    BLOCK_TOKENS,
    Fleet,
    Server,
    Serving,
    Tokens,
    answers_by_transfer,
    answers_of,
    token_ids,
)

LENGTHS = [33, 513, 1500]
IN_STORE = sum(map(whole_blocks, LENGTHS))


@dataclass(frozen=True)
class Sizes:
    """`first` and `second` are producers of two ranks, `smaller` is one of one rank.

    The consumer has two: what it saves the smaller one would find, were it of one.
    """

    plain: Server
    first: Server
    second: Server
    smaller: Server
    consumer: Server

    async def by(self, producer: Server, prompts: list[Tokens]) -> list[Tokens]:
        found = await answers_by_transfer(producer, self.consumer, prompts)
        for server in (producer, self.consumer):
            wait_until(server.is_idle, IDLE_LIMIT_S, f"{server.url} holds no block:\n{server.log[-2000:]}")
        return [token_ids(answer) for answer in found]


@pytest.fixture(scope="module")
def sizes(store: Store, fleet: Fleet, model: Path) -> Iterator[Sizes]:
    variables = {"STORE_MASTER": Store.address, "STORE_LOOKUP_TIMEOUT_S": "1"}

    def start(role: Role, ranks: int) -> Server:
        return fleet.start(role, Serving(model, variables=variables), ranks)

    store.empty()  # or these keys would take the place of other tests', and the number that is counted would not grow
    plain = fleet.start("aggregated", Serving(model))
    started = Sizes(plain, start("prefill", 2), start("prefill", 2), start("prefill", 1), start("decode", 2))
    fleet.wait()
    yield started
    fleet.stop_all()


async def test_one_size_shares_and_another_finds_nothing(sizes: Sizes, store: Store, prompts: Prompts) -> None:
    asked = prompts(*LENGTHS)
    expected = await answers_of(sizes.plain, asked)
    keys = store.keys

    assert await sizes.by(sizes.first, asked) == expected
    assert store.keys - keys >= 2 * IN_STORE // BLOCK_TOKENS, "a key of each rank"
    assert await sizes.by(sizes.second, asked) == expected
    assert await sizes.by(sizes.smaller, asked) == expected
    loaded = {name: from_store(getattr(sizes, name)) for name in ("first", "second", "smaller")}
    assert loaded == {"first": 0, "second": IN_STORE, "smaller": 0}
