"""Registrations that no producer may serve: each is refused at once or not heard at all, and harms no other transfer.

Most tests hold a true registration back, so that its blocks wait, and let it pass after the wrong ones.
"""

import os
import socket
from collections import Counter
from urllib.parse import urlsplit

import msgspec
import pytest
import zmq

from connector.control.control_key import ControlKey
from connector.control.messages import Cancelled, Done, Failed, Register
from tests.integration.failures.conftest import Prompts
from tests.integration.failures.control_peers import GoBetween, Stranger
from tests.integration.failures.failure_stack import FailureStack
from tests.integration.failures.legs import Transfer, answer, until_equal, until_reported


async def test_wrong_fingerprint(stack: FailureStack, prompts: Prompts) -> None:
    producer, consumer = stack.producer, stack.consumer
    received, failed = consumer.received(), consumer.failures()
    (prompt,) = prompts(100)
    transfer = Transfer(prompt)
    with GoBetween(stack.key, producer.transfer_record(), hold=(Register,)) as between, Stranger(stack.key) as stranger:
        await transfer.prefill(producer)
        decode = transfer.decode(consumer, between.record)
        true = await between.first(Register)
        wrong = msgspec.structs.replace(true, fingerprint="another layout", reply_to=stranger.address)
        stranger.send(producer.control_address, wrong)
        refusal = await stranger.first(Failed)
        assert refusal.cause.startswith("wrong layout: ")
        assert "another layout" in refusal.cause
        between.let_pass()
        assert await decode == await answer(producer, prompt)
    await until_equal(consumer.received, received + 1)
    assert consumer.failures() == failed


@pytest.mark.parametrize("other_tokens", [100, 200])
async def test_wrong_prompt(stack: FailureStack, prompts: Prompts, other_tokens: int) -> None:
    """The two legs of one transfer are not of one request, or a chat template printed two times of day."""
    name = f"of both {other_tokens}"
    producer, consumer = stack.producer, stack.consumer
    failed_there, failed_here = producer.failures(), consumer.failures()
    one, other = (Transfer(prompt, name) for prompt in prompts(100, other_tokens))
    decode = one.decode(consumer, producer.transfer_record())
    await other.prefill(producer)
    assert await decode == await answer(producer, one.prompt)
    await until_equal(producer.failures, failed_there + Counter({"wrong prompt": 1}))
    await until_equal(consumer.failures, failed_here + Counter({"wrong prompt": 1}))
    assert consumer.reports(name, producer.control_address, "wrong prompt")


async def test_replayed_id(stack: FailureStack, prompts: Prompts) -> None:
    producer, consumer = stack.producer, stack.consumer
    received, failed, registered = consumer.received(), consumer.failures(), producer.registrations()
    (prompt,) = prompts(100)
    transfer = Transfer(prompt)
    with (
        GoBetween(stack.key, producer.transfer_record(), hold=(Done,)) as between,
        Stranger(stack.key) as during,
        Stranger(stack.key) as afterwards,
    ):
        decode = transfer.decode(consumer, between.record)
        true = await between.first(Register)
        await until_equal(producer.registrations, registered + 1)
        during.send(producer.control_address, msgspec.structs.replace(true, reply_to=during.address))
        assert "registered already" in (await during.first(Failed)).cause
        await transfer.prefill(producer)
        await between.first(Done)
        sent = producer.metric("pd_kv_sent_bytes_total")
        afterwards.send(producer.control_address, msgspec.structs.replace(true, reply_to=afterwards.address))
        assert "already delivered" in (await afterwards.first(Failed)).cause
        between.let_pass()
        assert await decode == await answer(producer, prompt)
    await until_equal(consumer.received, received + 1)
    assert consumer.failures() == failed
    assert producer.metric("pd_kv_sent_bytes_total") == sent, "nothing is written twice"


async def test_one_rank_too_many(stack: FailureStack, prompts: Prompts) -> None:
    """Two ranks register where the first has said that it is alone."""
    producer, consumer = stack.producer, stack.consumer
    received, failed, registered = stack.received(), stack.failures(), producer.registrations()
    (prompt,) = prompts(100)
    transfer = Transfer(prompt)
    with GoBetween(stack.key, producer.transfer_record()) as between, Stranger(stack.key) as stranger:
        decode = transfer.decode(consumer, between.record)
        true = await between.first(Register)
        await until_equal(producer.registrations, registered + 1)
        second = msgspec.structs.replace(true, rank=true.rank + 1, reply_to=stranger.address)
        stranger.send(producer.control_address, second)
        assert "bad registration" in (await stranger.first(Failed)).cause
        await transfer.prefill(producer)
        assert await decode == await answer(producer, prompt)
    await until_equal(stack.received, received + 1)
    assert stack.failures() == failed


async def test_wrong_key(stack: FailureStack, prompts: Prompts) -> None:
    """Neither a registration nor an answer of somebody without the stack's key is heard."""
    producer, consumer = stack.producer, stack.consumer
    received, failed = consumer.received(), stack.failures()
    (prompt,) = prompts(100)
    transfer = Transfer(prompt)
    other_key = ControlKey.from_secret("the key of another stack")
    with GoBetween(stack.key, producer.transfer_record(), hold=(Register,)) as between, Stranger(other_key) as stranger:
        await transfer.prefill(producer)
        decode = transfer.decode(consumer, between.record)
        true = await between.first(Register)
        stranger.send(producer.control_address, msgspec.structs.replace(true, reply_to=stranger.address))
        stranger.send(true.reply_to, Cancelled(transfer.id, rank=0))
        for server in (producer, consumer):
            await until_reported(server, "refused a peer whose stack key differs")
        between.let_pass()
        assert await decode == await answer(producer, prompt)
        assert not stranger.received(Failed)
    await until_equal(consumer.received, received + 1)
    assert stack.failures() == failed


async def test_garbage_bytes(stack: FailureStack, prompts: Prompts) -> None:
    """With the stack's key and without; of no form, and in the form of a message that makes no sense."""
    producer, consumer = stack.producer, stack.consumer
    received, failed = consumer.received(), stack.failures()
    (prompt,) = prompts(100)
    transfer = Transfer(prompt)
    with GoBetween(stack.key, producer.transfer_record(), hold=(Register,)) as between:
        await transfer.prefill(producer)
        decode = transfer.decode(consumer, between.record)
        true = await between.first(Register)
        senseless = msgspec.msgpack.encode({**msgspec.to_builtins(true), "type": "register", "tokens": -1})
        for address in (producer.control_address, true.reply_to):
            with socket.create_connection((urlsplit(address).hostname, urlsplit(address).port)) as without_key:
                without_key.sendall(os.urandom(4096))
            with zmq.Context() as context, context.socket(zmq.DEALER) as with_key:
                stack.key.connect(with_key)
                with_key.connect(address)
                with_key.send(b"\xc1 is no msgpack")
                with_key.send(senseless)
        for server in (producer, consumer):
            for payload in (b"\xc1 is no msgpack", senseless):
                await until_reported(server, f"dropped {len(payload)} bytes that are no message")
        between.let_pass()
        assert await decode == await answer(producer, prompt)
    await until_equal(consumer.received, received + 1)
    assert stack.failures() == failed
