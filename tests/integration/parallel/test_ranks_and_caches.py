"""Producers and consumers of equal and different tensor parallelism, and the kinds of cache: greedy tokens are equal.

They are compared with what the consumer itself answers without a transfer: the same kernels, sums and ranks, so that
nothing but the transferred cache can make a difference. Where the producer has another number of ranks, its cache
differs in the last bits, about 1e-5 in a logit; the tiny models' best two logits are at least 1e-3 apart here.
"""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests import tiny_models
from tests.integration.parallel.instances import (
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
from tests.real_stack import wait_until
from tests.tiny_models import END_OF_TEXT, HEAD, LATENT, LAYERS, ROPE_HEAD, TinyModel

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
    # vLLM keeps all of the cache of such a model, where a connector has no word on several groups of blocks.
    "windows in two layers": Family(
        tiny_models.sliding_window(layers=2),
        pairs=((1, 1),),
        cache_heads=2,
        head_bytes=2 * HEAD * 4,
    ),
    # The CPU backend for MLA that every CPU has knows blocks of 16 only, and caches no prefixes.
    "MLA": Family(
        tiny_models.latent(),
        pairs=((1, 1), (1, 2), (2, 1)),
        cache_heads=1,
        head_bytes=(LATENT + ROPE_HEAD) * 4,
        block_size=16,
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

PAIRS = [
    pytest.param(name, *ranks, id=f"{name}, {ranks[0]} to {ranks[1]}")
    for name, family in FAMILIES.items()
    for ranks in family.pairs
]


@dataclass(frozen=True)
class Servers:
    """Of one family, by number of ranks."""

    producers: dict[int, Server]
    consumers: dict[int, Server]


@pytest.fixture(scope="module")
def servers_of(fleet: Fleet, folder: Path) -> Iterator[Callable[[str], Servers]]:
    """Starts a family's servers, side by side, when it is first asked for, and ends those of the family before."""
    running: dict[str, Servers] = {}

    def of(name: str) -> Servers:
        if name not in running:
            fleet.stop_all()
            running.clear()
            family = FAMILIES[name]
            serving = Serving(family.model.write(folder / name), family.block_size, arguments=family.arguments)
            producing, consuming = (sorted(set(ranks)) for ranks in zip(*family.pairs, strict=True))
            running[name] = Servers(
                {ranks: fleet.start("prefill", serving, ranks) for ranks in producing},
                {ranks: fleet.start("decode", serving, ranks) for ranks in consuming},
            )
            fleet.wait()
        return running[name]

    yield of
    fleet.stop_all()


@pytest.mark.parametrize(("name", "producer_ranks", "consumer_ranks"), PAIRS)
async def test_same_answers(
    servers_of: Callable[[str], Servers], name: str, producer_ranks: int, consumer_ranks: int
) -> None:
    family, servers = FAMILIES[name], servers_of(name)
    producer, consumer = servers.producers[producer_ranks], servers.consumers[consumer_ranks]
    numbers = random.Random(f"{producer_ranks} to {consumer_ranks}")
    prompts = [random_tokens(numbers, length) for length in LENGTHS]
    # All of both prompts that are cached after the first round lies before what the second round adds: the consumer
    # registers the blocks behind its prefix hit only.
    longer = [prompt + random_tokens(numbers, 100) for prompt in prompts]
    await assert_answers_show_errors(consumer, prompts[-1])
    for asked in (prompts, longer):
        expected = await answers_of(consumer, asked)
        answers = await answers_by_transfer(producer, consumer, asked)
        for prompt, wanted, answer in zip(asked, expected, answers, strict=True):
            whole = family.bytes_of(len(prompt), consumer_ranks)
            # Facts are in the answer only when all of the cache arrived, with the right checksum.
            facts = answer["kv_transfer_params"]
            assert facts, f"the consumer computed a prompt of {len(prompt)} tokens:\n{consumer.log[-3000:]}"
            assert facts["bytes"] == whole if asked is prompts else 0 < facts["bytes"] <= whole
            assert token_ids(answer) == wanted, f"prompt of {len(prompt)} tokens"
    for server in (producer, consumer):
        wait_until(server.is_idle, IDLE_LIMIT_S, f"{server.url} holds no block")


async def assert_answers_show_errors(server: Server, prompt: Tokens) -> None:
    """Of the model, and so of every comparison: another block anywhere in the prompt changes the answer."""
    others = []
    for start in range(0, len(prompt) - BLOCK_TOKENS, 10 * BLOCK_TOKENS):
        end = start + BLOCK_TOKENS
        others.append([*prompt[:start], *(255 - token for token in prompt[start:end]), *prompt[end:]])
    expected, *found = await answers_of(server, [prompt, *others])
    assert expected not in found
    assert len(set(expected)) > len(expected) / 2, "answers that repeat few tokens hide errors"


def random_tokens(numbers: random.Random, count: int) -> Tokens:
    return [numbers.randrange(END_OF_TEXT) for _ in range(count)]
