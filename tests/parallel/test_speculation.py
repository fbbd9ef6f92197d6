"""Speculative decoding in pools so small that blocks are used again at once, and that requests are preempted.

A draft's guesses take blocks behind what they guess from, which nobody reserves while a cache is loaded.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.caches import answers, drafts
from tests.integration.caches.servers import Trio
from tests.real_stack import metrics
from tests.tiny_servers.instances import Fleet, Server

SPECULATION = drafts.CASES["draft model"]
POOL = 56  # blocks, of which the longest prompt that may be asked needs about half
PATIENCE_S = 3  # of a producer with a consumer that has not come


@pytest.fixture(scope="module")
def trio(fleet: Fleet, models_folder: Path) -> Iterator[Trio]:
    """After its tests none of its blocks is in use."""
    speculates = SPECULATION.arguments(models_folder)
    # A prompt may start before all of it has room: only so can a producer be made to preempt.
    small = f"--num-gpu-blocks-override {POOL} --no-scheduler-reserve-full-isl {speculates}"
    started = Trio.start(
        fleet,
        models_folder,
        SPECULATION.target,
        arguments={"aggregated": speculates, "prefill": small, "decode": small},
        variables={"TRANSFER_PATIENCE_S": str(PATIENCE_S), "KV_STREAMING": "chunk"},
    )
    yield started
    started.assert_idle()
    fleet.stop_all()


def preemptions(server: Server) -> float:
    return metrics(server.url)["vllm:num_preemptions_total"]


async def test_blocks_are_used_again(trio: Trio) -> None:
    """Two long prompts at a time fill both pools over and over."""
    await trio.assert_same(trio.prompts("again", [700, 650, 800, 750, 850, 450]), at_once=2)


async def test_producer_preempts(trio: Trio) -> None:
    """Prefills that no consumer comes for hold most blocks, until a prompt beside them has to be computed anew."""
    *orphans, prompt = trio.prompts("orphans", [300, 300, 300, 300, 900])
    before = preemptions(trio.producer)
    for number, orphan in enumerate(orphans):
        transfer = {"do_remote_decode": True, "transfer_id": f"orphan-{number}"}
        await answers.plain(trio.producer, [orphan], max_tokens=1, kv_transfer_params=transfer)
    found = await trio.transferred([prompt])
    assert not await trio.different([prompt], found)
    assert preemptions(trio.producer) > before


async def test_consumer_preempts(trio: Trio) -> None:
    """The prompts that it takes fit beside each other, their answers do not."""
    prompts = trio.prompts("answers", [250] * 10)
    before = preemptions(trio.consumer)
    found = await trio.transferred(prompts, max_tokens=150)
    assert not await trio.different(prompts, found, max_tokens=150)
    assert preemptions(trio.consumer) > before
    assert sum(bool(answer.facts) for answer in found) > len(found) / 2
