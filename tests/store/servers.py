"""Servers of one tiny model that share a store, and a plain one that does not."""

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stack.instances.record import Role
from tests.real_stack import metrics, wait_until
from tests.store.conftest import Prompts
from tests.store.processes import Store
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

IDLE_LIMIT_S = 120.0  # a call that hangs ends after 60 s
BACK_LIMIT_S = 120.0


class Servers:
    """Two producers and two consumers of the store, an aggregated server of it, and the plain one."""

    plain: Server
    first: Server
    second: Server
    consumer: Server
    other_consumer: Server
    aggregated: Server

    def __init__(self, fleet: Fleet, model: Path, **variables: str) -> None:
        """variables: more of the launcher's."""
        self._fleet = fleet
        self._model = model
        self.variables = {"STORE_MASTER": Store.address, **variables}
        self.start()

    def start(self) -> None:
        def start(role: Role) -> Server:
            return self._fleet.start(role, Serving(self._model, variables=self.variables))

        self.plain = self._fleet.start("aggregated", Serving(self._model))
        self.first, self.second = start("prefill"), start("prefill")
        self.consumer, self.other_consumer = start("decode"), start("decode")
        self.aggregated = start("aggregated")
        self._fleet.wait()

    def restart(self) -> None:
        self._fleet.stop_all()
        self.start()

    @property
    def sharing(self) -> list[Server]:
        return [self.first, self.second, self.consumer, self.other_consumer, self.aggregated]

    def wait_until_saved(self) -> None:
        """Nothing is computed or waits to be saved, and no load hangs: a block of either would be in use."""
        for server in self.sharing:
            wait_until(server.is_idle, IDLE_LIMIT_S, f"{server.url} holds no block:\n{server.log[-2000:]}")

    async def by(
        self, producer: Server, prompts: Sequence[Tokens], consumer: Server | None = None, **more: Any
    ) -> list[Tokens]:
        """Answers of the first or another consumer, to whom this producer gives the prompts' cache."""
        found = await answers_by_transfer(producer, consumer or self.consumer, prompts, **more)
        return [token_ids(answer) for answer in found]

    async def expected(self, prompts: Sequence[Tokens], **more: Any) -> list[Tokens]:
        return await answers_of(self.plain, prompts, **more)


def from_store(server: Server) -> int:
    """Tokens of prompts whose cache the server has loaded from the store, since its start."""
    return int(metrics(server.url)["vllm:external_prefix_cache_hits_total"])


def whole_blocks(tokens: int) -> int:
    """How many of a prompt's tokens a store can have: of the last one the answer is computed."""
    return (tokens - 1) // BLOCK_TOKENS * BLOCK_TOKENS


async def assert_in_use_again(servers: Servers, store: Store, prompts: Prompts) -> None:
    """Within a while what one producer computes the other one loads, and every block has come back."""
    await asyncio.to_thread(store.wait_for_memory)
    fresh = iter(prompts(*range(500, 600)))
    deadline = time.monotonic() + BACK_LIMIT_S
    before = from_store(servers.second)
    while from_store(servers.second) == before:
        assert time.monotonic() < deadline, f"not in use again:\n{servers.second.log[-4000:]}\n{store.log}"
        prompt = next(fresh)
        (of_first,) = await servers.by(servers.first, [prompt])
        servers.wait_until_saved()
        (of_second,) = await servers.by(servers.second, [prompt])
        assert of_first == of_second == (await servers.expected([prompt]))[0]
        servers.wait_until_saved()
