"""Pipelines on either side: each layer comes from the stage that has it, whatever stages the consumer has."""

import asyncio
import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from connector.control.control_key import ControlKey
from connector.first_token import causes
from tests.integration.caches.servers import Trio
from tests.integration.first_token.legs import PRODUCER, Legs, Request
from tests.integration.parallel.pipelines import LENGTHS, Shape, started
from tests.real_stack import metrics, wait_until
from tests.tiny_servers.instances import CONTROL_PORT, STACK_KEY, Fleet

ONE, TWO_RANKS, TWO_STAGES = Shape(), Shape(ranks=2), Shape(stages=2)
LIMIT_S = 60
VARIABLES = {
    "TRANSFER_CHECKSUM": "true",
    "TRANSFER_PATIENCE_S": "5",
    "TRANSFER_TIMEOUT_S": "20",
    "TRANSFER_CANCEL_TIMEOUT_S": "22",
}


@pytest.fixture(scope="module")
def hybrids(fleet: Fleet, models_folder: Path) -> Iterator[dict[Shape, Trio]]:
    """Full attention and two groups of windows, of one of which the producer's second stage has no layer."""
    uneven = Shape(stages=2, partition="4,2")
    yield started(fleet, models_folder, "gemma-3", uneven, [ONE, TWO_RANKS, TWO_STAGES])
    fleet.stop_all()


@pytest.mark.parametrize("shape", [ONE, TWO_RANKS, TWO_STAGES], ids=str)
async def test_layers_with_windows(hybrids: dict[Shape, Trio], shape: Shape) -> None:
    trio = hybrids[shape]
    free = trio.free_blocks()
    await trio.assert_same(trio.prompts("windows", LENGTHS))
    assert trio.free_blocks() == free
    rank = rf"rank 1 \(stage 2 of 2\) at {re.escape(trio.producer.address)}\d+, .*, 2 layers"
    assert re.search(rank, trio.producer.log)


@pytest.fixture(scope="module")
def trios(fleet: Fleet, models_folder: Path) -> Iterator[dict[Shape, Trio]]:
    yield started(fleet, models_folder, "llama", TWO_STAGES, [ONE, TWO_STAGES], VARIABLES)
    fleet.stop_all()


@pytest.fixture(params=[ONE, TWO_STAGES], ids=str)
def trio(request: pytest.FixtureRequest, trios: dict[Shape, Trio]) -> Iterator[Trio]:
    """After the test as many blocks are free as before it."""
    one = trios[request.param]
    free = one.free_blocks()
    yield one
    assert one.free_blocks() == free


@pytest.fixture
def legs(trio: Trio) -> Legs:
    return Legs(trio, ControlKey.from_secret(STACK_KEY))


async def test_every_length(trio: Trio) -> None:
    """Each stage counts its part of each transfer, and the consumer its tokens once."""
    sides = {
        trio.producer.url: ("pd_kv_sent_bytes_total", "pd_kv_delivered_shares_total"),
        trio.consumer.url: (
            "pd_kv_received_bytes_total",
            "pd_kv_received_shares_total",
            "pd_kv_received_tokens_total",
        ),
    }

    def counted() -> list[float]:
        trio.assert_idle()
        return [metrics(url)[name] for url, names in sides.items() for name in names]

    before = counted()
    facts = await trio.assert_same(trio.prompts("lengths", LENGTHS))
    moved, shares, tokens = sum(one["bytes"] for one in facts), 2 * len(LENGTHS), sum(LENGTHS)
    found = [after - first for after, first in zip(counted(), before, strict=True)]
    assert found == [moved, shares, moved, shares, tokens]


async def test_first_tokens_are_the_producer_s(trio: Trio, legs: Legs) -> None:
    """Its last stage has sampled them, its first one sends them."""
    before = await legs.counted()
    requests = [Request(prompt) for prompt in trio.prompts("first tokens", [1, 32, 33, 128, 129, 300])]
    assert await legs.all(requests) == [await legs.expected(request) for request in requests]
    with_seed = Request(trio.prompts("seed", [100])[0], {"seed": 1})
    assert await legs.both(with_seed) == await legs.expected(with_seed)
    expected = Counter({PRODUCER: len(requests), ("consumer", causes.SEED): 1})
    assert await legs.counted() - before == expected


async def test_the_comparison_shows_a_stage_that_did_not_come(fleet: Fleet, trio: Trio) -> None:
    """Negative control: the other stage's layers have come."""
    for stage in ("[01]", "[23]"):
        fleet.unmoved.write_text(rf": model\.layers\.{stage}\.")
        try:
            with pytest.raises(AssertionError, match="log probabilities differ"):
                await trio.assert_same(trio.prompts(f"forgotten {stage}", [160, 700]))
        finally:
            fleet.unmoved.unlink()


async def test_a_stage_that_was_not_asked(trio: Trio, monkeypatch: pytest.MonkeyPatch) -> None:
    """The only answer says that it is done, and a part of the layers has not come: the consumer computes the prompt."""
    first = {"control": [trio.producer.address + str(CONTROL_PORT)], "pipeline_parallel_size": 1}
    monkeypatch.setattr(trio.producer, "record", trio.producer.record | first)
    prompts = trio.prompts("not asked", [160])
    found = await trio.transferred(prompts)
    assert not await trio.different(prompts, found)
    assert not found[0].facts
    assert "not whole: no rank of the producer has model.layers.2." in trio.consumer.log


async def test_bytes_that_are_lost(fleet: Fleet, trio: Trio) -> None:
    """The checksum of each stage's share differs."""
    prompts = trio.prompts("lost", [33, 300])
    fleet.drop_writes.touch()
    try:
        found = await trio.transferred(prompts)
    finally:
        fleet.drop_writes.unlink()
    assert not await trio.different(prompts, found)
    assert not any(answer.facts for answer in found)
    assert f"checksum: what arrived from {trio.producer.address}" in trio.consumer.log


async def test_aborts(trio: Trio, legs: Legs) -> None:
    """Of either side's request while the consumer waits for blocks, and of both while they compute."""
    prompts = trio.prompts("aborted", [300] * 4)
    for aborted, prompt in zip(("decode", "prefill"), prompts, strict=False):
        request = Request(prompt)
        with trio.producer.frozen():
            tasks: dict[str, asyncio.Task[Any]] = {
                "prefill": asyncio.create_task(legs.prefill(request)),
                "decode": asyncio.create_task(legs.decode(request)),
            }
            await _seen(lambda: metrics(trio.consumer.url)["pd_kv_blocks_held"] > 0, "the consumer waits")
            await _abort(tasks.pop(aborted))
        if aborted == "prefill":
            assert await tasks["decode"] == await legs.expected(request)
        else:
            await tasks["prefill"]
    sent = metrics(trio.producer.url)["pd_kv_sent_bytes_total"]
    both = [asyncio.create_task(legs.both(Request(prompt))) for prompt in prompts]
    await _seen(lambda: metrics(trio.producer.url)["pd_kv_sent_bytes_total"] > sent, "the first bytes have moved")
    await _abort(*both)
    trio.assert_idle()
    await trio.assert_same(trio.prompts("after aborts", [160]))


async def test_producer_killed(trios: dict[Shape, Trio]) -> None:
    """Under consumers that wait. The last test: nothing is left of the producer."""
    for trio in trios.values():
        trio.assert_idle()
    requests = {shape: Request(trio.prompts("killed", [300])[0]) for shape, trio in trios.items()}
    legs = {shape: Legs(trio, ControlKey.from_secret(STACK_KEY)) for shape, trio in trios.items()}
    answers = {shape: asyncio.create_task(legs[shape].decode(request)) for shape, request in requests.items()}
    urls = [trio.consumer.url for trio in trios.values()]
    await _seen(lambda: all(metrics(url)["pd_kv_blocks_held"] > 0 for url in urls), "the consumers wait")
    trios[ONE].producer.kill()
    for shape, request in requests.items():
        assert await answers[shape] == await legs[shape].expected(request)
        wait_until(trios[shape].consumer.is_idle, LIMIT_S, "the consumer holds no block")


async def _seen(condition: Callable[[], bool], what: str) -> None:
    await asyncio.to_thread(wait_until, condition, LIMIT_S, what)


async def _abort(*tasks: "asyncio.Task[Any]") -> None:
    """Close their connections, which is how vLLM learns that nobody waits any more."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
