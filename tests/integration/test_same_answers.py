"""Through the stack comes what one plain vLLM server answers, token by token, and only because the KV cache arrived."""

import random

import pytest

from tests.integration.answers import ANSWER_TOKENS, Tokens, assert_same_answers, english, greedy
from tests.real_stack import (
    BLOCK_TOKENS,
    KV_CACHE_BYTES,
    MAX_MODEL_LEN,
    MODEL,
    PATIENCE_S,
    PlainVllm,
    RealStack,
    metrics,
    post,
    wait_until,
)

# One token to 3,000; around one, two, four and eight blocks of 32; around one and two chunks of 512.
SHORT = [1, 2, 5, 31, 32, 33, 63, 64, 65, 127, 128, 129, 255, 256, 257, 500, 511, 512, 513]
LONG = [700, 1000, 1023, 1024, 1025, 1500, 2000, 3000]
KV_BYTES_PER_TOKEN = 30 * 2 * 3 * 64 * 4  # SmolLM2-135M: 30 layers, K and V, 3 heads of 64, float32


async def prompts_of(plain: PlainVllm, lengths: list[int], seed: int) -> list[Tokens]:
    text = await english(plain)
    places = random.Random(seed)
    starts = [places.randrange(len(text) - length) for length in lengths]
    return [text[start : start + length] for start, length in zip(starts, lengths, strict=True)]


def held_requests(instance_url: str) -> float:
    found = metrics(instance_url)
    return found["vllm:num_requests_running"] + found["vllm:num_requests_waiting"]


# More at once than the small caches of this stack can hold would rightly be answered without a transfer.
@pytest.mark.parametrize(("lengths", "at_once"), [(SHORT, 10), (LONG, 2)], ids=["ten at a time", "two at a time"])
async def test_every_length(stack: RealStack, plain: PlainVllm, lengths: list[int], at_once: int) -> None:
    prompts = await prompts_of(plain, lengths, seed=at_once)
    before = metrics(stack.decode_url)
    await assert_same_answers(stack, plain, prompts, at_once)
    after = metrics(stack.decode_url)

    blocks = sum(-(-length // BLOCK_TOKENS) for length in lengths)
    grown = {name: after[name] - before.get(name, 0) for name in after}
    assert grown["pd_kv_received_shares_total"] == len(lengths)
    assert grown["pd_kv_received_tokens_total"] == sum(lengths)
    assert grown["pd_kv_received_bytes_total"] == blocks * BLOCK_TOKENS * KV_BYTES_PER_TOKEN
    assert grown.get("pd_kv_failed_shares_total", 0) == 0


async def test_blocks_leave_while_the_prefill_computes(stack: RealStack, plain: PlainVllm) -> None:
    (prompt,) = await prompts_of(plain, [2000], seed=11)
    before = metrics(stack.prefill_url)
    await assert_same_answers(stack, plain, [prompt], at_once=1)
    after = metrics(stack.prefill_url)
    moved = after["pd_kv_sent_bytes_total"] - before["pd_kv_sent_bytes_total"]
    early = after["pd_kv_early_bytes_total"] - before["pd_kv_early_bytes_total"]
    assert moved == 63 * BLOCK_TOKENS * KV_BYTES_PER_TOKEN
    # The registration is there before the first of four chunks ends, so at least two chunks leave early.
    assert early >= moved / 2


@pytest.mark.parametrize("where", ["producer", "consumer", "both"])
async def test_prefix_hits(stack: RealStack, plain: PlainVllm, where: str) -> None:
    """Prompts whose beginning one or both sides have computed before: whole blocks of it, or all of it."""
    prompts = await prompts_of(plain, [96, 300, 800], seed={"producer": 3, "consumer": 4, "both": 5}[where])
    warmed = {
        "producer": [stack.prefill_url],
        "consumer": [stack.decode_url],
        "both": [stack.prefill_url, stack.decode_url],
    }
    for url in warmed[where]:
        await greedy(url, [prompt[: len(prompt) * 2 // 3] for prompt in prompts], at_once=1, max_tokens=1)
    before = metrics(stack.decode_url)
    await assert_same_answers(stack, plain, prompts, at_once=1)
    await assert_same_answers(stack, plain, prompts, at_once=3)  # now both sides have all of each prompt

    received = metrics(stack.decode_url)["pd_kv_received_tokens_total"] - before["pd_kv_received_tokens_total"]
    everything = 2 * sum(map(len, prompts))
    assert 0 < received < everything, "what the consumer has already need not be sent"


async def test_first_token_is_the_end(stack: RealStack, plain: PlainVllm) -> None:
    """A prompt that is answered by nothing: the producer's one token is EOS, or a stop token."""
    (prompt,) = await prompts_of(plain, [200], seed=6)
    ((first, *_),) = await greedy(plain.url, [prompt], at_once=1)
    end_of_text = 2  # <|im_end|>, EOS of SmolLM2-Instruct
    for reason in ({"logit_bias": {str(end_of_text): 100}}, {"stop_token_ids": [first]}):
        body = {"model": MODEL, "prompt": prompt, "temperature": 0, "max_tokens": ANSWER_TOKENS, **reason}
        expected = post(plain.url + "/v1/completions", body)
        found = post(stack.api_url + "/v1/completions", body)
        for answer in (expected, found):
            assert answer["choices"][0]["finish_reason"] == "stop"
            assert answer["usage"]["completion_tokens"] == 1
        assert found["choices"][0]["text"] == expected["choices"][0]["text"]


async def test_producer_short_of_blocks_preempts(stack: RealStack, plain: PlainVllm) -> None:
    """Prefills that no consumer comes for hold most blocks, so a prompt beside them is preempted and computed anew."""
    *orphans, prompt = await prompts_of(plain, [1000, 1000, 1000, 1500], seed=7)
    expected = await greedy(plain.url, [prompt], at_once=1)
    before = metrics(stack.prefill_url)
    for number, orphan in enumerate(orphans):
        transfer = {"do_remote_decode": True, "transfer_id": f"orphan-{number}"}
        await greedy(stack.prefill_url, [orphan], at_once=1, max_tokens=1, kv_transfer_params=transfer)
    assert await greedy(stack.api_url, [prompt], at_once=1) == expected
    after = metrics(stack.prefill_url)
    assert after["vllm:num_preemptions_total"] > before["vllm:num_preemptions_total"]

    def orphans_are_given_up() -> bool:
        failed = metrics(stack.prefill_url).get("pd_kv_failed_shares_total", 0)
        return failed >= before.get("pd_kv_failed_shares_total", 0) + len(orphans)

    wait_until(orphans_are_given_up, 3 * PATIENCE_S, "blocks of prefills without a consumer are released")


async def test_consumer_short_of_blocks_preempts(stack: RealStack, plain: PlainVllm) -> None:
    """Three prompts fit beside each other, their answers do not."""
    capacity = KV_CACHE_BYTES // KV_BYTES_PER_TOKEN
    length = capacity // 3 - 2 * BLOCK_TOKENS
    assert length + 100 < MAX_MODEL_LEN
    prompts = await prompts_of(plain, [length] * 3, seed=8)
    expected = await greedy(plain.url, prompts, at_once=3, max_tokens=100)
    # With the prompts in the producer's cache all three arrive together, and none is done before the others grow.
    await greedy(stack.prefill_url, prompts, at_once=3, max_tokens=1)
    before = metrics(stack.decode_url)
    assert await greedy(stack.api_url, prompts, at_once=3, max_tokens=100) == expected
    assert metrics(stack.decode_url)["vllm:num_preemptions_total"] > before["vllm:num_preemptions_total"]


async def test_answers_depend_on_the_transfer(stack: RealStack, plain: PlainVllm) -> None:
    """Negative control: the same comparison fails when the bytes do not arrive, so it cannot pass by recomputing."""
    prompts = await prompts_of(plain, [33, 300, 600, 1100], seed=9)
    stack.drop_writes.touch()
    try:
        for prompt in prompts:
            with pytest.raises(AssertionError, match=f"prompt of {len(prompt)} tokens"):
                await assert_same_answers(stack, plain, [prompt], at_once=1)
    finally:
        stack.drop_writes.unlink()
    prompts = await prompts_of(plain, [33, 300], seed=10)
    await assert_same_answers(stack, plain, prompts, at_once=1)


def test_nothing_is_left_running(stack: RealStack) -> None:
    """After all of the above no request waits and no block is held for a transfer."""
    for url in (stack.prefill_url, stack.decode_url):
        wait_until(lambda url=url: held_requests(url) == 0, 30, f"{url} has no request left")
        wait_until(lambda url=url: metrics(url)["vllm:kv_cache_usage_perc"] == 0, 30, f"{url} has no block in use")
