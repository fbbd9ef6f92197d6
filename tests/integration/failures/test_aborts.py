"""Either leg's request is aborted before, during and after the prefill: the other leg is not held by it."""

import asyncio
from collections import Counter

from connector.control.messages import Cancelled, Failed, Register
from tests.integration.failures.conftest import Prompts
from tests.integration.failures.control_peers import GoBetween
from tests.integration.failures.failure_stack import MAX_NUM_SEQS, FailureStack
from tests.integration.failures.legs import Transfer, abort, answer, until, until_equal
from tests.real_stack import BLOCK_TOKENS


async def test_producer_aborted_before_its_prefill(stack: FailureStack, prompts: Prompts) -> None:
    producer, consumer = stack.producer, stack.consumer
    failed_there, failed_here = producer.failures(), consumer.failures()
    (prompt,) = prompts(300)
    transfer = Transfer(prompt)
    others = [asyncio.create_task(answer(producer, [word], max_tokens=3000)) for word in range(100, 100 + MAX_NUM_SEQS)]
    await until(lambda: producer.metric("vllm:num_requests_running") == MAX_NUM_SEQS, "the producer is busy")
    prefill, decode = transfer.prefill(producer), transfer.decode(consumer, producer.transfer_record())
    await until(lambda: producer.metric("vllm:num_requests_waiting") == 1, "the prompt waits in its queue")
    await abort(prefill)

    found = await decode
    for other in others:
        await abort(other)
    assert found == await answer(producer, prompt)
    await until_equal(producer.failures, failed_there + Counter({"aborted": 1}))
    await until_equal(consumer.failures, failed_here + Counter({"aborted": 1}))
    assert consumer.reports(transfer.id, producer.control_address, "aborted")


async def test_producer_aborted_during_its_prefill(stack: FailureStack, prompts: Prompts) -> None:
    producer, consumer = stack.producer, stack.consumer
    failed_there, failed_here = producer.failures(), consumer.failures()
    (prompt,) = prompts(1200)
    transfer = Transfer(prompt)
    sent = producer.metric("pd_kv_sent_bytes_total")
    prefill, decode = transfer.prefill(producer), transfer.decode(consumer, producer.transfer_record())
    await until(lambda: producer.metric("pd_kv_sent_bytes_total") > sent, "the first chunk has left")
    await abort(prefill)

    assert await decode == await answer(producer, prompt)
    await until_equal(producer.failures, failed_there + Counter({"aborted": 1}))
    await until_equal(consumer.failures, failed_here + Counter({"aborted": 1}))
    assert consumer.reports(transfer.id, producer.control_address, "aborted")


async def test_producer_aborted_after_its_prefill(stack: FailureStack, prompts: Prompts) -> None:
    """The prompt is computed, so the blocks wait for their consumer as if nothing had happened."""
    producer, consumer = stack.producer, stack.consumer
    failed = producer.failures() + consumer.failures()
    received = consumer.received()
    # Whole blocks: else the answer's first tokens would change the prompt's last block under its checksum. Legs of the
    # proxy ask for one token, which is never written.
    (prompt,) = prompts(19 * BLOCK_TOKENS)
    transfer = Transfer(prompt)
    generated = producer.metric("vllm:generation_tokens_total")
    prefill = transfer.prefill(producer, max_tokens=1000)
    await until(lambda: producer.metric("vllm:generation_tokens_total") > generated, "the producer writes an answer")
    await abort(prefill)

    assert await transfer.decode(consumer, producer.transfer_record()) == await answer(producer, prompt)
    await until_equal(consumer.received, received + 1)
    assert producer.failures() + consumer.failures() == failed


async def test_consumer_aborted_in_its_own_queue(stack: FailureStack, prompts: Prompts) -> None:
    """Before it has registered: the producer has computed the prompt and hears at once that nobody comes for it."""
    producer, consumer = stack.producer, stack.consumer
    failed = producer.failures()
    (prompt,) = prompts(300)
    transfer = Transfer(prompt)
    others = [asyncio.create_task(answer(consumer, [word], max_tokens=3000)) for word in range(100, 100 + MAX_NUM_SEQS)]
    await until(lambda: consumer.metric("vllm:num_requests_running") == MAX_NUM_SEQS, "the consumer is busy")
    await transfer.prefill(producer)
    with GoBetween(stack.key, producer.transfer_record()) as between:
        decode = transfer.decode(consumer, between.record)
        await until(lambda: consumer.metric("vllm:num_requests_waiting") == 1, "the request waits in its queue")
        await abort(decode)
        await between.first(Cancelled)
        assert not between.received(Register)

    for other in others:
        await abort(other)
    await until_equal(producer.failures, failed + Counter({"cancelled": 1}))
    assert producer.reports(transfer.id, "cancelled")


async def test_consumer_aborted_before_the_prefill(stack: FailureStack, prompts: Prompts) -> None:
    producer, consumer = stack.producer, stack.consumer
    failed = producer.failures()
    (prompt,) = prompts(600)
    transfer = Transfer(prompt)
    with GoBetween(stack.key, producer.transfer_record()) as between:
        decode = transfer.decode(consumer, between.record)
        await between.first(Register)
        await abort(decode)
        await between.first(Cancelled)

    await transfer.prefill(producer)  # comes to a transfer that has ended
    await until_equal(producer.failures, failed + Counter({"cancelled": 1}))
    assert producer.reports(transfer.id, between.address, "cancelled")


async def test_consumer_aborted_during_the_prefill(stack: FailureStack, prompts: Prompts) -> None:
    producer, consumer = stack.producer, stack.consumer
    failed = producer.failures()
    (prompt,) = prompts(1200)
    transfer = Transfer(prompt)
    sent = producer.metric("pd_kv_sent_bytes_total")
    with GoBetween(stack.key, producer.transfer_record()) as between:
        prefill, decode = transfer.prefill(producer), transfer.decode(consumer, between.record)
        await until(lambda: producer.metric("pd_kv_sent_bytes_total") > sent, "the first chunk has left")
        await abort(decode)
        await between.first(Cancelled)

    await prefill
    await until_equal(producer.failures, failed + Counter({"cancelled": 1}))
    assert producer.reports(transfer.id, between.address, "cancelled")
    assert await answer(consumer, prompt) == await answer(producer, prompt)  # nothing half-written is in its cache


async def test_consumer_aborted_after_the_prefill(stack: FailureStack, prompts: Prompts) -> None:
    """Its registration is still under way, and arrives after its cancellation."""
    producer, consumer = stack.producer, stack.consumer
    failed = producer.failures()
    (prompt,) = prompts(600)
    transfer = Transfer(prompt)
    await transfer.prefill(producer)
    with GoBetween(stack.key, producer.transfer_record(), hold=(Register,)) as between:
        decode = transfer.decode(consumer, between.record)
        await between.first(Register)
        await abort(decode)
        await between.first(Cancelled)
        between.let_pass()

        assert "cancelled" in (await between.first(Failed)).cause

    await until_equal(producer.failures, failed + Counter({"cancelled": 1}))
    assert producer.reports(transfer.id, between.address, "cancelled")
