"""A pair with so few blocks that they are used again at once, by the same request or others, and that it preempts."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.integration.caches import answers
from tests.integration.caches.models import Served
from tests.integration.caches.servers import Trio
from tests.real_stack import metrics
from tests.tiny_servers.instances import Fleet, Server

PATIENCE_S = 3  # of a producer with a consumer that has not come


@contextmanager
def short_of_blocks(fleet: Fleet, folder: Path, served: Served, pool: int, speculates: str = "") -> Iterator[Trio]:
    """`pool`: blocks of both; `speculates`: arguments of all three. At the end none of the blocks is in use."""
    # A prompt may start before all of it has room: only so can a producer be made to preempt.
    small = f"--num-gpu-blocks-override {pool} --no-scheduler-reserve-full-isl {speculates}"
    trio = Trio.start(
        fleet,
        folder,
        served,
        arguments={"aggregated": speculates, "prefill": small, "decode": small},
        variables={"TRANSFER_PATIENCE_S": str(PATIENCE_S), "KV_STREAMING": "chunk"},
    )
    yield trio
    trio.assert_idle()
    fleet.stop_all()


async def assert_blocks_are_used_again(trio: Trio, lengths: Sequence[int]) -> None:
    """Two long prompts at a time fill both pools over and over."""
    await trio.assert_same(trio.prompts("again", lengths), at_once=2)


async def assert_producer_preempts(trio: Trio) -> None:
    """Prefills that no consumer comes for hold most blocks, until a prompt beside them has to be computed anew."""
    *orphans, prompt = trio.prompts("orphans", [300, 300, 300, 300, 900])
    before = _preemptions(trio.producer)
    for number, orphan in enumerate(orphans):
        transfer = {"do_remote_decode": True, "transfer_id": f"orphan-{number}"}
        await answers.plain(trio.producer, [orphan], max_tokens=1, kv_transfer_params=transfer)
    found = await trio.transferred([prompt])
    assert not await trio.different([prompt], found)
    assert _preemptions(trio.producer) > before


async def assert_consumer_preempts(trio: Trio) -> None:
    """The prompts that it takes fit beside each other, their answers do not."""
    prompts = trio.prompts("answers", [250] * 10)
    before = _preemptions(trio.consumer)
    found = await trio.transferred(prompts, max_tokens=150)
    assert not await trio.different(prompts, found, max_tokens=150)
    assert _preemptions(trio.consumer) > before
    assert sum(bool(answer.facts) for answer in found) > len(found) / 2


def _preemptions(server: Server) -> float:
    return metrics(server.url)["vllm:num_preemptions_total"]
