"""Servers are killed without a word under transfers of every age; the supervisor starts each again, as a new peer."""

from collections import Counter

import aiohttp
import pytest

from connector.control.messages import Done
from tests.integration.failures.conftest import Prompts
from tests.integration.failures.control_peers import GoBetween
from tests.integration.failures.failure_stack import FailureStack
from tests.integration.failures.legs import Transfer, answer, until, until_equal


async def test_consumer_killed_in_mid_stream(stack: FailureStack, prompts: Prompts) -> None:
    """The producer's transfer to another consumer at the same time, and its later ones, are not harmed."""
    producer, consumer, other = stack.servers
    record, address = producer.transfer_record(), consumer.control_address
    killed = consumer.transfer_record()["engine_id"]
    cut, beside, later, new = (Transfer(prompt) for prompt in prompts(1200, 600, 300, 100))
    failed, received = producer.failures(), other.received()
    free = producer.free_blocks()
    sent = producer.metric("pd_kv_sent_bytes_total")

    cut_prefill, cut_decode = cut.prefill(producer), cut.decode(consumer, record)
    await until(lambda: producer.metric("pd_kv_sent_bytes_total") > sent, "the first chunk has left")
    consumer.kill()
    beside_prefill, beside_decode = beside.prefill(producer), beside.decode(other, record)
    with pytest.raises(aiohttp.ClientError):
        await cut_decode
    await cut_prefill
    await beside_prefill
    assert await beside_decode == await answer(producer, beside.prompt)
    await until(lambda: producer.free_blocks() == free, "the producer gives the blocks up")
    await later.prefill(producer)
    assert await later.decode(other, record) == await answer(producer, later.prompt)

    await until_equal(other.received, received + 2)
    causes = "consumer lost", "write failed"
    either = [failed + Counter({cause: 1}) for cause in causes]
    await until(lambda: producer.failures() in either, "what the producer notices first is the cause")
    assert any(producer.reports(cut.id, address, cause) for cause in causes)

    consumer.wait_for_successor(killed)
    await new.prefill(producer)
    assert await new.decode(consumer, record) == await answer(producer, new.prompt)
    await until_equal(consumer.received, 1)


async def test_producer_killed(stack: FailureStack, prompts: Prompts) -> None:
    """Before a registration, in mid-stream, and before its last word; then a caller uses its old record."""
    producer, _, consumer = stack.servers
    old, address = producer.transfer_record(), producer.control_address
    unregistered, streaming, complete, late, new = (Transfer(prompt) for prompt in prompts(100, 1200, 100, 100, 100))
    failed, received = consumer.failures(), consumer.received()

    with GoBetween(stack.key, old, hold=(Done,)) as between:
        await unregistered.prefill(producer)
        await complete.prefill(producer)
        complete_decode = complete.decode(consumer, between.record)
        await between.first(Done)
        sent = producer.metric("pd_kv_sent_bytes_total")
        streaming_prefill, streaming_decode = streaming.prefill(producer), streaming.decode(consumer, old)
        await until(lambda: producer.metric("pd_kv_sent_bytes_total") > sent, "the first chunk has left")
        producer.kill()
    unregistered_decode = unregistered.decode(consumer, old)
    with pytest.raises(aiohttp.ClientError):
        await streaming_prefill
    found = [await decode for decode in (unregistered_decode, streaming_decode, complete_decode)]
    await until_equal(consumer.failures, failed + Counter({"producer lost": 3}))
    assert consumer.metric("pd_kv_revocations_total") > 0, "its kernel could have gone on sending"
    for transfer in (unregistered, streaming):
        assert consumer.reports(transfer.id, address, "producer lost")
    assert consumer.reports(complete.id, between.address, "producer lost")

    producer.wait_for_successor(old["engine_id"])
    assert found == [await answer(producer, transfer.prompt) for transfer in (unregistered, streaming, complete)]
    assert await late.decode(consumer, old) == await answer(producer, late.prompt)
    assert consumer.reports(late.id, address, "restarted")
    await new.prefill(producer)
    assert await new.decode(consumer, producer.transfer_record()) == await answer(producer, new.prompt)
    await until_equal(consumer.received, received + 1)
