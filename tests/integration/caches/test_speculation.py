"""Speculative decoding behind a transfer: the plain server's text, in as few steps as the plain server needs.

A draft whose cache did not come would be correct and useless, so that what it guessed is counted.
"""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from stack.configuration.settings import REPOSITORY
from stack.instances.record import Role
from tests.integration.caches import drafts, write_drafts
from tests.integration.caches.drafts import Speculation
from tests.integration.caches.models import STEP_TOKENS, WINDOW
from tests.integration.caches.servers import Trio
from tests.real_stack import metrics
from tests.tiny_servers.instances import Fleet, Server, Tokens

ANSWER_TOKENS = 24
# At the end of each of a prompt's steps vLLM 0.32 tells a draft of EAGLE the prompt's last token, not the next one
# (prepare_next_token_ids_padded), and steps end elsewhere when other prompts are in the batch.
TOLERANCE = 0.05
GUESSED, ACCEPTED = "vllm:spec_decode_num_drafts_total", "vllm:spec_decode_num_accepted_tokens_total"
GUESS_WELL = [name for name, speculation in drafts.CASES.items() if speculation.guesses_well]
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
    started = Trio.start(fleet, drafts_folder, speculation.target, arguments=arguments)
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
    plain, consumer = (since(server, was) for server, was in zip((trio.plain, trio.consumer), before, strict=True))
    # vLLM pads a request's first step behind a load with guesses that nobody made, and counts them.
    steps, accepted = consumer[0] - len(prompts), consumer[1]
    assert steps <= (1 + TOLERANCE) * plain[0], (consumer, plain)
    assert accepted >= (1 - TOLERANCE) * plain[1], (consumer, plain)
    if speculation.guesses_well:
        assert plain[1] > plain[0] / 2, "the draft guesses too badly for this test"


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


async def assert_same(trio: Trio, prompts: list[Tokens]) -> None:
    """Once from each server: what they guess is counted."""
    found = await trio.transferred(prompts, max_tokens=ANSWER_TOKENS)
    different = await trio.different(prompts, found, max_tokens=ANSWER_TOKENS)
    assert not different, f"answers differ, by tokens in the prompt: {different}"
    computed = [
        len(prompt)
        for prompt, answer in zip(prompts, found, strict=True)
        if len(prompt) > trio.served.block_size and not answer.facts
    ]
    assert not computed, f"prompts of {computed} tokens were computed by the consumer:\n{trio.consumer.log[-3000:]}"


def counts(server: Server) -> Counts:
    """Steps of requests in which the draft guessed, and guesses that were right."""
    found = metrics(server.url)
    return found[GUESSED], found[ACCEPTED]


def since(server: Server, before: Counts) -> Counts:
    guessed, accepted = counts(server)
    return guessed - before[0], accepted - before[1]
