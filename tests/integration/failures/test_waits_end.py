"""Each wait for the other side has its bound.

It is TRANSFER_PATIENCE_S for its request or its registration, TRANSFER_TIMEOUT_S for its word, and for the word of one
that is silent altogether TRANSFER_CANCEL_TIMEOUT_S after the heartbeats have missed it.
"""

from collections import Counter

from connector.control.messages import Done
from tests.integration.failures.conftest import Prompts
from tests.integration.failures.control_peers import GoBetween
from tests.integration.failures.failure_stack import FailureStack
from tests.integration.failures.legs import Transfer, answer, until, until_equal


async def test_a_consumer_registers_and_no_prefill_comes(stack: FailureStack, prompts: Prompts) -> None:
    producer, consumer = stack.producer, stack.consumer
    failed_there, failed_here = producer.failures(), consumer.failures()
    (prompt,) = prompts(300)
    transfer = Transfer(prompt)
    assert await transfer.decode(consumer, producer.transfer_record()) == await answer(producer, prompt)
    await until_equal(producer.failures, failed_there + Counter({"no prefill": 1}))
    await until_equal(consumer.failures, failed_here + Counter({"no prefill": 1}))
    assert consumer.reports(transfer.id, producer.control_address, "no prefill")


async def test_a_prompt_is_computed_and_no_consumer_comes(stack: FailureStack, prompts: Prompts) -> None:
    """One that comes after all is refused at once."""
    producer, consumer = stack.producer, stack.consumer
    failed_there, failed_here = producer.failures(), consumer.failures()
    free = producer.free_blocks()
    (prompt,) = prompts(300)
    transfer = Transfer(prompt)
    await transfer.prefill(producer)
    assert producer.free_blocks() < free
    await until(lambda: producer.free_blocks() == free, "the producer gives the blocks up")
    await until_equal(producer.failures, failed_there + Counter({"no consumer": 1}))
    assert producer.reports(transfer.id, "no consumer")

    assert await transfer.decode(consumer, producer.transfer_record()) == await answer(producer, prompt)
    await until_equal(consumer.failures, failed_here + Counter({"no consumer": 1}))
    assert consumer.reports(transfer.id, producer.control_address, "no consumer")


async def test_the_producers_word_does_not_come(stack: FailureStack, prompts: Prompts) -> None:
    producer, consumer = stack.producer, stack.consumer
    failed = consumer.failures()
    (prompt,) = prompts(300)
    transfer = Transfer(prompt)
    with GoBetween(stack.key, producer.transfer_record(), hold=(Done,)) as between:
        await transfer.prefill(producer)
        assert await transfer.decode(consumer, between.record) == await answer(producer, prompt)
    await until_equal(consumer.failures, failed + Counter({"timed out": 1}))
    assert consumer.reports(transfer.id, between.address, "timed out")


async def test_the_producer_is_silent(stack: FailureStack, prompts: Prompts) -> None:
    """Its processes are stopped: nobody refuses a connection, and nobody answers."""
    producer, consumer = stack.producer, stack.consumer
    failed, address = consumer.failures(), producer.control_address
    (prompt,) = prompts(300)
    transfer = Transfer(prompt)
    record = producer.transfer_record()
    with producer.frozen():
        found = await transfer.decode(consumer, record)
    await until_equal(consumer.failures, failed + Counter({"timed out": 1}))
    assert consumer.reports(transfer.id, address, "timed out")
    assert found == await answer(producer, prompt)
    await until(producer.is_registered, "the producer is in etcd again")
