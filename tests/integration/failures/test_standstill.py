"""Servers are stopped for a while and wake: both sides of every transfer soon agree whether it goes on.

How long this takes for any standstill is shown in simulated time (tests/unit/connector/properties/test_standstill.py);
here it is the real servers, connections and heartbeats.
"""

import asyncio
import time
from collections import Counter

from connector.control.peers import HEARTBEAT_MS, SILENT_MS
from tests.integration.failures.conftest import Prompts
from tests.integration.failures.failure_stack import CANCEL_TIMEOUT_S, FailureStack
from tests.integration.failures.legs import Transfer, answer, until, until_equal, until_reported

# Longer than it takes until every connection to it is given up, and shorter than a producer may be away for.
PRODUCERS_STANDSTILL_S = (SILENT_MS + HEARTBEAT_MS) / 1000 + 0.5
assert PRODUCERS_STANDSTILL_S < CANCEL_TIMEOUT_S - 5
CONSUMERS_STANDSTILL_S = 10.0  # until the producer has given up a write
AGREEMENT_LIMIT_S = 15.0  # 3 s on a machine that has nothing else to do


async def test_a_producer_that_was_stopped_goes_on_with_all_that_waits_for_it(
    stack: FailureStack, prompts: Prompts
) -> None:
    producer, consumer = stack.producer, stack.consumer
    failed, failed_there = consumer.failures(), producer.failures()
    received, revoked = consumer.received(), consumer.metric("pd_kv_revocations_total")
    record = producer.transfer_record()
    transfers = [Transfer(prompt) for prompt in prompts(50, 60, 70, 80)]
    with producer.frozen():
        legs = [(transfer.prefill(producer), transfer.decode(consumer, record)) for transfer in transfers]
        await asyncio.sleep(PRODUCERS_STANDSTILL_S)
    found = [await decode for _, decode in legs]
    assert consumer.received() == received + len(transfers), "none of them was computed a second time"
    assert (consumer.failures(), producer.failures()) == (failed, failed_there)
    assert consumer.metric("pd_kv_revocations_total") == revoked
    for prefill, _ in legs:
        await prefill
    assert found == [await answer(producer, transfer.prompt) for transfer in transfers]
    await until(producer.is_registered, "the producer is in etcd again")


async def test_a_consumer_that_was_stopped_learns_at_once_what_did_not_arrive(
    stack: FailureStack, prompts: Prompts
) -> None:
    producer, consumer = stack.producer, stack.consumer
    failed = consumer.failures()
    sent, record = producer.metric("pd_kv_sent_bytes_total"), producer.transfer_record()
    (prompt,) = prompts(1200)
    transfer = Transfer(prompt)
    prefill, decode = transfer.prefill(producer), transfer.decode(consumer, record)
    await until(lambda: producer.metric("pd_kv_sent_bytes_total") > sent, "the first chunk has left")
    with consumer.frozen():
        await asyncio.sleep(CONSUMERS_STANDSTILL_S)
    woken = time.monotonic()
    await until_reported(consumer, transfer.id, "failed after")
    assert time.monotonic() - woken < AGREEMENT_LIMIT_S
    found = await decode
    await prefill
    await until_equal(consumer.failures, failed + Counter({"write failed": 1}))
    assert found == await answer(producer, transfer.prompt)
    await until(consumer.is_registered, "the consumer is in etcd again")
