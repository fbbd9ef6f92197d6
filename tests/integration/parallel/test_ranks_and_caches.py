"""Producers and consumers of equal and different tensor parallelism, and the kinds of cache: greedy tokens are equal.

They are compared with what the consumer itself answers without a transfer: the same kernels, sums and ranks, so that
nothing but the transferred cache can make a difference. Where the producer has another number of ranks, its cache
differs in the last bits, about 1e-5 in a logit; the tiny models' best two logits are at least 1e-3 apart here.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from stack.instances.record import Role
from tests import tiny_models
from tests.real_stack import wait_until
from tests.tiny_models import END_OF_TEXT, HEAD, LATENT, LAYERS, ROPE_HEAD, TinyModel
from tests.tiny_servers.instances import (
    BLOCK_TOKENS,
    FP8_CACHES,
    Fleet,
    Server,
    Serving,
    Tokens,
    answers_by_transfer,
    answers_of,
    token_ids,
)

LENGTHS = [1, 31, 32, 33, 513, 1500]  # around one block, and around one chunk
IDLE_LIMIT_S = 30
Ranks = tuple[int, int]


@dataclass(frozen=True)
class Family:
    """Servers of one model and cache type, and the (producer's, consumer's) numbers of ranks to pair.

    `cache_heads`: KV heads; `head_bytes`: of one token in one layer of one head.
    """

    model: TinyModel
    pairs: tuple[Ranks, ...]
    cache_heads: int
    head_bytes: int
    block_size: int = BLOCK_TOKENS
    caches_prefixes: bool = True
    arguments: str = ""

    def bytes_of(self, tokens: int, consumer_ranks: int) -> int:
        """Whole blocks of every layer; each rank of the consumer has at least one head, its own or a copy."""
        blocks = -(-tokens // self.block_size)
        return blocks * self.block_size * LAYERS * max(self.cache_heads, consumer_ranks) * self.head_bytes


FAMILIES = {
    "two KV heads": Family(
        tiny_models.grouped_query(2),
        pairs=((1, 1), (2, 2), (1, 2), (2, 1)),
        cache_heads=2,
        head_bytes=2 * HEAD * 4,
    ),
    "one KV head": Family(
        tiny_models.grouped_query(1),
        pairs=((1, 2), (2, 1)),
        cache_heads=1,
        head_bytes=2 * HEAD * 4,
    ),
    # The CPU backend for MLA that every CPU has knows blocks of 16 only, and caches no prefixes.
    "MLA": Family(
        tiny_models.latent(),
        pairs=((1, 1), (1, 2), (2, 1)),
        cache_heads=1,
        head_bytes=(LATENT + ROPE_HEAD) * 4,
        block_size=16,
        caches_prefixes=False,
        arguments="--attention-backend CPU_MLA",
    ),
}
if FP8_CACHES:
    FAMILIES["fp8 cache"] = Family(
        tiny_models.grouped_query(2),
        pairs=((1, 1),),
        cache_heads=2,
        head_bytes=2 * HEAD,
        arguments="--kv-cache-dtype fp8",
    )


@dataclass(frozen=True)
class Pair:
    name: str
    family: Family
    producer: Server
    consumer: Server
    consumer_ranks: int

    def prompts(self, name: str, *lengths: int) -> list[Tokens]:
        """Prompts that nobody has cached, and the same in each run: not any of them shows every error."""
        numbers = random.Random(f"{name} {self.name}")
        return [[numbers.randrange(END_OF_TEXT) for _ in range(length)] for length in lengths]


StartFamily = Callable[[str], dict[tuple[Role, int], Server]]


@pytest.fixture(scope="module")
def start_family(fleet: Fleet, folder: Path) -> Iterator[StartFamily]:
    """Its servers by role and number of ranks; those of the family before end when another one starts."""
    running: dict[str, dict[tuple[Role, int], Server]] = {}

    def start(name: str) -> dict[tuple[Role, int], Server]:
        if name not in running:
            fleet.stop_all()
            running.clear()
            family = FAMILIES[name]
            serving = Serving(family.model.write(folder / name), family.block_size, arguments=family.arguments)
            roles: tuple[Role, Role] = ("prefill", "decode")
            kinds = sorted({kind for ranks in family.pairs for kind in zip(roles, ranks, strict=True)})
            running[name] = {(role, ranks): fleet.start(role, serving, ranks) for role, ranks in kinds}
            fleet.wait()
        return running[name]

    yield start
    fleet.stop_all()


@pytest.fixture(
    scope="module",
    params=[
        pytest.param((name, *ranks), id=f"{name}, {ranks[0]} to {ranks[1]}")
        for name, family in FAMILIES.items()
        for ranks in family.pairs
    ],
)
def pair(request: pytest.FixtureRequest, start_family: StartFamily) -> Iterator[Pair]:
    """After its tests none of its blocks is in use."""
    name, producer_ranks, consumer_ranks = request.param
    servers = start_family(name)
    producer, consumer = servers["prefill", producer_ranks], servers["decode", consumer_ranks]
    yield Pair(f"{name} {producer_ranks} {consumer_ranks}", FAMILIES[name], producer, consumer, consumer_ranks)
    for server in (producer, consumer):
        wait_until(server.is_idle, IDLE_LIMIT_S, f"{server.url} holds no block")


async def test_answers_show_errors(pair: Pair) -> None:
    """Of the model, and so of every comparison below: another block anywhere in the prompt changes the answer."""
    (prompt,) = pair.prompts("errors", LENGTHS[-1])
    others = []
    for start in range(0, len(prompt) - BLOCK_TOKENS, 16 * BLOCK_TOKENS):
        end = start + BLOCK_TOKENS
        others.append([*prompt[:start], *(255 - token for token in prompt[start:end]), *prompt[end:]])
    expected, *found = await answers_of(pair.consumer, [prompt, *others])
    assert expected not in found
    assert len(set(expected)) > len(expected) / 2, "answers that repeat few tokens hide errors"


async def test_every_length(pair: Pair) -> None:
    prompts = pair.prompts("lengths", *LENGTHS)
    for length, facts in zip(LENGTHS, await facts_of_same_answers(pair, prompts), strict=True):
        assert facts["bytes"] == pair.family.bytes_of(length, pair.consumer_ranks)


async def test_prefix_hits(pair: Pair) -> None:
    """Both sides have the beginning of each prompt, the consumer by transfer: it asks for the blocks behind it."""
    prompts = pair.prompts("prefixes", 250, 850)
    begun = [prompt[: len(prompt) * 2 // 3] for prompt in prompts]
    await facts_of_same_answers(pair, begun)
    for prompt, facts in zip(prompts, await facts_of_same_answers(pair, prompts), strict=True):
        hit = len(prompt) * 2 // 3 // BLOCK_TOKENS * BLOCK_TOKENS if pair.family.caches_prefixes else 0
        assert facts["bytes"] == pair.family.bytes_of(len(prompt) - hit, pair.consumer_ranks)


async def test_bytes_that_are_lost_are_noticed(fleet: Fleet, pair: Pair) -> None:
    """The checksum of each rank's share differs, so the consumer computes the prompt."""
    prompts = pair.prompts("lost", 33, 700)
    expected = await answers_of(pair.consumer, prompts)
    fleet.drop_writes.touch()
    try:
        answers = await answers_by_transfer(pair.producer, pair.consumer, prompts)
    finally:
        fleet.drop_writes.unlink()
    assert list(map(token_ids, answers)) == expected
    assert not any(answer["kv_transfer_params"] for answer in answers)
    assert f"checksum: what arrived from {pair.producer.address}" in pair.consumer.log


async def facts_of_same_answers(pair: Pair, prompts: Sequence[Tokens]) -> list[dict[str, Any]]:
    """Asserts that all requests at once are answered as without a transfer, and that all of their cache arrived."""
    expected = await answers_of(pair.consumer, prompts)
    answers = await answers_by_transfer(pair.producer, pair.consumer, prompts)
    for prompt, wanted, answer in zip(prompts, expected, answers, strict=True):
        assert token_ids(answer) == wanted, f"prompt of {len(prompt)} tokens"
        # There are facts only when all of the cache arrived, with the right checksum.
        failure = f"the consumer computed a prompt of {len(prompt)} tokens:\n{pair.consumer.log[-3000:]}"
        assert answer["kv_transfer_params"], failure
    return [answer["kv_transfer_params"] for answer in answers]
