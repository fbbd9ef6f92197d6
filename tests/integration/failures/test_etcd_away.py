"""etcd is away: neither a transfer under way nor a new one needs it, between peers that have met before."""

from tests.integration.failures.conftest import Prompts
from tests.integration.failures.failure_stack import FailureStack
from tests.integration.failures.legs import Transfer, answer, until, until_equal
from tests.real_stack import answers


async def test_transfers_go_on(stack: FailureStack, prompts: Prompts) -> None:
    producer, consumer = stack.producer, stack.consumer
    acquainted, under_way, new = (Transfer(prompt) for prompt in prompts(40, 1200, 300))
    record = producer.transfer_record()
    await acquainted.prefill(producer)
    await acquainted.decode(consumer, record)
    received, failed = consumer.received(), stack.failures()
    sent = producer.metric("pd_kv_sent_bytes_total")

    prefill, decode = under_way.prefill(producer), under_way.decode(consumer, record)
    await until(lambda: producer.metric("pd_kv_sent_bytes_total") > sent, "the first chunk has left")
    stack.supervisor.stop_service("etcd")
    try:
        await until(lambda: not answers(stack.etcd_url + "/health"), "etcd is away")
        assert not decode.done(), "etcd went away too late to matter"
        await prefill
        assert await decode == await answer(producer, under_way.prompt)
        await new.prefill(producer)
        assert await new.decode(consumer, record) == await answer(producer, new.prompt)
        assert not answers(stack.etcd_url + "/health")
    finally:
        stack.supervisor.start_service("etcd")
        await until(lambda: answers(stack.etcd_url + "/health"), "etcd is back")
    await until_equal(consumer.received, received + 2)
    assert stack.failures() == failed
    await until(lambda: all(server.is_registered() for server in stack.servers), "all are registered again")
