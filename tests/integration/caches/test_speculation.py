"""Speculative decoding behind a transfer: the plain server's text, in as few steps as the plain server needs.

A draft whose cache did not come would be correct and useless, so that what it guessed is counted.
"""

import asyncio
import subprocess
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from connector.first_token import causes
from stack.configuration.settings import REPOSITORY
from stack.instances.record import Role
from tests.integration.caches import drafts, write_drafts
from tests.integration.caches.answers import Answer
from tests.integration.caches.drafts import Speculation
from tests.integration.caches.legs import abort, decode, held, prefill, seen
from tests.integration.caches.models import STEP_TOKENS, WINDOW
from tests.integration.caches.servers import Trio
from tests.real_stack import first_tokens, metrics
from tests.tiny_servers.instances import Fleet, Server, Tokens

ANSWER_TOKENS = 24
# At the end of each of a prompt's steps vLLM 0.32 tells a draft of EAGLE the prompt's last token, not the next one
# (prepare_next_token_ids_padded), and steps end elsewhere when other prompts are in the batch.
TOLERANCE = 0.05
GUESSED, ACCEPTED = "vllm:spec_decode_num_drafts_total", "vllm:spec_decode_num_accepted_tokens_total"
PATIENCE = {"TRANSFER_PATIENCE_S": "5", "TRANSFER_TIMEOUT_S": "20", "TRANSFER_CANCEL_TIMEOUT_S": "22"}
GUESS_WELL = [name for name, speculation in drafts.CASES.items() if speculation.guesses_well]
CACHE_PREFIXES = [name for name in GUESS_WELL if drafts.CASES[name].target.caches_prefixes]
ONE = GUESS_WELL[:1]
Counts = tuple[float, float]


@pytest.fixture(scope="module")
def drafts_folder(folder: Path) -> Path:
    """A folder of each target's and of each draft's name is in it."""
    written = folder / "speculation"
    subprocess.run(
        [REPOSITORY / ".stack/venv/vllm/bin/python", "-m", write_drafts.__name__, written], cwd=REPOSITORY, check=True
    )
    return written


@pytest.fixture(scope="module", params=drafts.CASES)
def speculation(request: pytest.FixtureRequest) -> Speculation:
    return drafts.CASES[request.param]


@pytest.fixture(scope="module")
def trio(speculation: Speculation, fleet: Fleet, drafts_folder: Path) -> Iterator[Trio]:
    """After its tests none of its blocks is in use."""
    roles: tuple[Role, ...] = ("aggregated", "prefill", "decode") if speculation.has_cache else ("aggregated", "decode")
    arguments = dict.fromkeys(roles, speculation.arguments(drafts_folder))
    started = Trio.start(fleet, drafts_folder, speculation.target, arguments=arguments, variables=PATIENCE)
    yield started
    started.assert_idle()
    fleet.stop_all()


def lengths(block_tokens: int) -> list[int]:
    """Guesses behind the prompt lie in its last block, or in the next one, which nobody has reserved while it loads."""
    edges = (block_tokens, WINDOW, WINDOW + block_tokens, 5 * block_tokens, STEP_TOKENS, 2 * STEP_TOKENS, 512)
    around = {edge + offset for edge in edges for offset in (-2, -1, 0, 1)}
    return sorted({1, 2, 3, 316, 700} | around)


async def test_the_plain_servers_text_in_as_many_steps(trio: Trio, speculation: Speculation) -> None:
    prompts = trio.prompts("speculation", lengths(trio.served.block_size))
    before = counts(trio.plain), counts(trio.consumer)
    await assert_same(trio, prompts)
    plain = assert_as_many_steps(trio, before, len(prompts))
    if speculation.guesses_well:
        assert plain[1] > plain[0] / 2, "the draft guesses too badly for this test"


async def test_the_consumer_computes_first_tokens(trio: Trio) -> None:
    """It falls back request by request, and counts why."""
    trio.assert_idle()
    before = first_tokens(trio.consumer.url)
    await assert_same(trio, trio.prompts("first tokens", [33, 160, 316]))
    trio.assert_idle()
    assert first_tokens(trio.consumer.url) - before == Counter({("consumer", causes.SPECULATION): 3})


@pytest.mark.parametrize("speculation", CACHE_PREFIXES, indirect=True, scope="module")
async def test_prefix_hits(trio: Trio) -> None:
    """In blocks that the consumer has from before the draft's cache has stayed as well."""
    salt = uuid.uuid4().hex
    prompts = trio.prompts("prefixes", range(200, 720, 40))  # of four a step or two would be more than the tolerance
    await assert_same(trio, [prompt[: len(prompt) * 2 // 3] for prompt in prompts], cache_salt=salt)
    before = counts(trio.plain), counts(trio.consumer)
    found = await assert_same(trio, prompts, cache_salt=salt)
    moved = sum(answer.facts["tokens"] for answer in found if answer.facts)
    assert moved < sum(map(len, prompts)) * 2 / 3
    assert_as_many_steps(trio, before, len(prompts))


@pytest.mark.parametrize("speculation", ONE, indirect=True, scope="module")
@pytest.mark.parametrize("aborted", ["prefill", "decode"])
async def test_aborted_while_the_consumer_waits(trio: Trio, aborted: str) -> None:
    """Without a prefill it computes the prompt, and the draft's cache with it."""
    (prompt,) = trio.prompts(f"aborted {aborted}", [300])
    free = trio.free_blocks()
    before = counts(trio.plain), counts(trio.consumer)
    transfer_id = uuid.uuid4().hex
    with trio.producer.frozen():
        legs: dict[str, asyncio.Task[Any]] = {
            "prefill": asyncio.create_task(prefill(trio, prompt, transfer_id)),
            "decode": asyncio.create_task(decode(trio, prompt, transfer_id, max_tokens=ANSWER_TOKENS)),
        }
        await seen(lambda: held(trio.consumer) > 0, "the consumer waits")
        await abort(legs.pop(aborted))
    if aborted == "prefill":
        answer = await legs["decode"]
        assert not answer.facts
        assert not await trio.different([prompt], [answer], max_tokens=ANSWER_TOKENS)
        assert_as_many_steps(trio, before, loads=1)
    else:
        await legs["prefill"]
    assert trio.free_blocks() == free


@pytest.mark.parametrize("speculation", ONE, indirect=True, scope="module")
async def test_aborted_while_they_compute(trio: Trio) -> None:
    """Ten prompts: some have been answered, of some a part has moved, some have not begun."""
    free = trio.free_blocks()
    sent = metrics(trio.producer.url)["pd_kv_sent_bytes_total"]
    legs = asyncio.create_task(trio.transferred(trio.prompts("aborts", [700] * 10), max_tokens=ANSWER_TOKENS))
    await seen(lambda: metrics(trio.producer.url)["pd_kv_sent_bytes_total"] > sent, "the first bytes have moved")
    await abort(legs)
    assert trio.free_blocks() == free
    before = counts(trio.plain), counts(trio.consumer)
    prompts = trio.prompts("after aborts", [160, 700])
    await assert_same(trio, prompts)
    assert_as_many_steps(trio, before, len(prompts))


@pytest.mark.parametrize("speculation", GUESS_WELL, indirect=True, scope="module")
async def test_without_its_cache_a_draft_guesses_badly(fleet: Fleet, trio: Trio, speculation: Speculation) -> None:
    """Negative control: the target's layers are moved, the draft's are not. The text is the same."""
    prompts = trio.prompts("unmoved", [130, 316, 512, 700])
    before = counts(trio.plain), counts(trio.consumer)
    fleet.unmoved.write_text(speculation.draft_layers)
    try:
        await assert_same(trio, prompts)
    finally:
        fleet.unmoved.unlink()
    plain, consumer = (since(server, was) for server, was in zip((trio.plain, trio.consumer), before, strict=True))
    assert consumer[0] > 1.3 * plain[0], f"steps: {consumer[0]:.0f} without the draft's cache, {plain[0]:.0f} with it"


async def assert_same(trio: Trio, prompts: Sequence[Tokens], **more: Any) -> list[Answer]:
    """Once from each server: what they guess is counted."""
    found = await trio.transferred(prompts, max_tokens=ANSWER_TOKENS, **more)
    different = await trio.different(prompts, found, max_tokens=ANSWER_TOKENS, **more)
    assert not different, f"answers differ, by tokens in the prompt: {different}"
    computed = [
        len(prompt)
        for prompt, answer in zip(prompts, found, strict=True)
        if len(prompt) > trio.served.block_size and not answer.facts
    ]
    assert not computed, f"prompts of {computed} tokens were computed by the consumer:\n{trio.consumer.log[-3000:]}"
    return found


def assert_as_many_steps(trio: Trio, before: tuple[Counts, Counts], loads: int) -> Counts:
    """loads: requests that have waited for a transfer. before: of the plain server and the consumer.

    vLLM pads a request's first step behind a load with guesses that nobody made, and counts them.
    Returns: the plain server's.
    """
    plain, consumer = (since(server, was) for server, was in zip((trio.plain, trio.consumer), before, strict=True))
    steps, accepted = consumer[0] - loads, consumer[1]
    assert steps <= (1 + TOLERANCE) * plain[0], (consumer, plain)
    assert accepted >= (1 - TOLERANCE) * plain[1], (consumer, plain)
    return plain


def counts(server: Server) -> Counts:
    """Steps of requests in which the draft guessed, and guesses that were right."""
    found = metrics(server.url)
    return found[GUESSED], found[ACCEPTED]


def since(server: Server, before: Counts) -> Counts:
    guessed, accepted = counts(server)
    return guessed - before[0], accepted - before[1]
