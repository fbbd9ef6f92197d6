"""One leg is there and the other never comes: it is given up after TRANSFER_PATIENCE_S, not after minutes."""

from collections import Counter

from tests.integration.failures.conftest import Prompts
from tests.integration.failures.failure_stack import FailureStack
from tests.integration.failures.legs import Transfer, answer, until


async def test_a_consumer_registers_and_no_prefill_comes(stack: FailureStack, prompts: Prompts) -> None:
    producer, consumer = stack.producer, stack.consumer
    failed_there, failed_here = producer.failures(), consumer.failures()
    (prompt,) = prompts(300)
    transfer = Transfer(prompt)
    assert await transfer.decode(consumer, producer.transfer_record()) == await answer(producer, prompt)
    assert producer.failures() - failed_there == Counter({"no prefill": 1})
    assert consumer.failures() - failed_here == Counter({"no prefill": 1})
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
    assert producer.failures() - failed_there == Counter({"no consumer": 1})
    assert producer.reports(transfer.id, "no consumer")

    assert await transfer.decode(consumer, producer.transfer_record()) == await answer(producer, prompt)
    assert consumer.failures() - failed_here == Counter({"no consumer": 1})
    assert consumer.reports(transfer.id, producer.control_address, "no consumer")
