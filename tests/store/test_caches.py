"""Every kind of cache of docs/store.md's table: what one server has saved another loads, and answers as a plain one.

By log probabilities, since tokens alone would not show that one block of a window or a state is another's.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from benchmarks.profile.running_stack import kv_cache
from stack.instances.record import Role
from stack.network.direct_http import open_directly
from tests.integration.caches import answers, models, write_models
from tests.integration.caches.models import BY_NAME, STEP_TOKENS, Served
from tests.integration.caches.servers import COMMON, MOST_REQUESTS, Trio
from tests.real_stack import START_LIMIT_S, wait_until
from tests.store.processes import Store
from tests.store.servers import IDLE_LIMIT_S, from_store
from tests.tiny_servers.instances import Fleet, Server, Serving, Tokens

LENGTHS = (33, 65, 159, 160, 161, 300, 513, 700, 999)
AT_ONCE = 3  # blocks that wait to be saved are a quarter of the cache at most
TURN_LENGTHS = (100, 300, 700)
LONG_ANSWER = 100
SALT = "kept"  # of one server's cache for the other
VARIABLES = COMMON | {"STORE_MASTER": Store.address, "STORE_LOOKUP_TIMEOUT_S": "1"}


@dataclass(frozen=True)
class Kind:
    """A model, and how much of a prompt the store can have.

    unit: so many tokens, or a multiple; None: a block of vLLM's, which is as large as the state. keeps_all: of each
    prompt but its last token; else both sides leave that out, and one more is computed. keeps_answers: as vLLM's own
    prefix cache; of the others vLLM keeps what a prompt ends on.
    """

    served: Served
    unit: int | None = models.BLOCK_TOKENS
    keeps_all: bool = False
    keeps_answers: bool = False

    def unit_of(self, server: Server) -> int:
        if self.unit is not None:
            return self.unit
        with open_directly(f"{server.url}/metrics", START_LIMIT_S) as answer:
            return kv_cache(answer.read().decode())[1]

    def of_prompt(self, tokens: int, unit: int) -> int:
        return (tokens - (1 if self.keeps_all else 2)) // unit * unit

    def of_turn(self, prompt: int, answer: int, unit: int) -> int:
        """Of a server alone, which leaves nothing out."""
        return (prompt - 1 + (answer if self.keeps_answers else 0)) // unit * unit


# A window, or a state, is of use where the blocks of all groups end.
KINDS = (
    Kind(BY_NAME["llama-all-windows"]),
    Kind(BY_NAME["gemma-3"]),
    Kind(BY_NAME["gemma-4-unequal"], unit=64),
    Kind(BY_NAME["gemma-4-unequal-one-group"], keeps_all=True, keeps_answers=True),
    Kind(BY_NAME["gemma-4-shared-layers"], unit=64),
    Kind(BY_NAME["gpt-oss"]),
    Kind(BY_NAME["llama-4"], keeps_answers=True),
    Kind(BY_NAME["nemotron-h"], unit=STEP_TOKENS),
    Kind(BY_NAME["falcon-h1"], unit=STEP_TOKENS),
    Kind(BY_NAME["deepseek-v3"], unit=16, keeps_all=True, keeps_answers=True),
    Kind(BY_NAME["qwen-3-next"], unit=None),  # 288 tokens, or 544 on CPUs with another kernel for its state
)


@dataclass(frozen=True)
class Servers:
    """`first` and `second` differ in the producer alone. The aggregated ones share with each other."""

    kind: Kind
    first: Trio
    second: Trio
    aggregated: tuple[Server, Server]

    async def loaded(self, trio: Trio, prompts: list[Tokens]) -> int:
        """How many tokens the producer has loaded for answers that are the plain server's."""
        before = from_store(trio.producer)
        different = await trio.different(prompts, await trio.transferred(prompts, AT_ONCE))
        self.wait_until_saved()
        assert not different, f"log probabilities differ, by tokens in the prompt: {different}"
        return from_store(trio.producer) - before

    def wait_until_saved(self) -> None:
        for server in (self.first.producer, self.second.producer, self.first.consumer, *self.aggregated):
            wait_until(server.is_idle, IDLE_LIMIT_S, f"{server.url} holds no block:\n{server.log[-2000:]}")


@pytest.fixture(scope="module")
def models_folder(folder: Path) -> Path:
    return write_models.written(folder / "kinds", {served.name: served.config for served in models.ALL})


def serving(models_folder: Path, served: Served, **variables: str) -> Serving:
    variables |= {"MAX_NUM_BATCHED_TOKENS": str(served.step_tokens)}
    arguments = f"{served.arguments} --max-num-seqs {MOST_REQUESTS}"
    return Serving(models_folder / served.name, served.block_size, served.dtype, arguments, variables)


@pytest.fixture(scope="module", params=KINDS, ids=[kind.served.name for kind in KINDS])
def servers(request: pytest.FixtureRequest, store: Store, fleet: Fleet, models_folder: Path) -> Iterator[Servers]:
    kind: Kind = request.param

    def start(role: Role) -> Server:
        return fleet.start(role, serving(models_folder, kind.served, **VARIABLES))

    plain = fleet.start("aggregated", serving(models_folder, kind.served, **COMMON))
    first, second, consumer = start("prefill"), start("prefill"), start("decode")
    aggregated = start("aggregated"), start("aggregated")
    store.empty()  # of other models, or it would be full
    fleet.wait()
    yield Servers(
        kind, Trio(kind.served, plain, first, consumer), Trio(kind.served, plain, second, consumer), aggregated
    )
    fleet.stop_all()


async def test_what_one_producer_has_computed_the_other_one_loads(servers: Servers) -> None:
    prompts = servers.first.prompts("store", LENGTHS)
    assert await servers.loaded(servers.first, prompts) == 0
    unit = servers.kind.unit_of(servers.first.producer)
    expected = sum(servers.kind.of_prompt(length, unit) for length in LENGTHS)
    assert await servers.loaded(servers.second, prompts) == expected > 0


async def test_a_turn_finds_what_another_aggregated_server_has_answered(servers: Servers) -> None:
    one, other = servers.aggregated
    prompts = servers.first.prompts("turns", TURN_LENGTHS)
    found = await answers.plain(one, prompts, max_tokens=LONG_ANSWER, cache_salt=SALT)
    servers.wait_until_saved()
    turns = [prompt + answer.tokens + prompt[:1] for prompt, answer in zip(prompts, found, strict=True)]

    assert not await servers.first.different(turns, await answers.plain(other, turns, cache_salt=SALT))
    servers.wait_until_saved()
    unit = servers.kind.unit_of(other)
    assert from_store(other) == sum(servers.kind.of_turn(length, LONG_ANSWER, unit) for length in TURN_LENGTHS) > 0


async def test_a_state_of_which_vllm_keeps_no_prefixes_is_refused(fleet: Fleet, models_folder: Path) -> None:
    """Models of states alone: vLLM's prefix caching is off for them by default."""
    served = replace(BY_NAME["mamba-2"], block_size=STEP_TOKENS)
    server = fleet.start("aggregated", serving(models_folder, served, **VARIABLES))
    wait_until(lambda: server.has_ended, START_LIMIT_S, "the server ends")
    fleet.stop_all()
    assert "--mamba-cache-mode none: with a KV store expected align" in server.log
