"""What may happen between a first token and its prompt's cache, to both and to the message.

A go-between holds the word on the cache back. The token goes past it, from the producer to the consumer's scheduler.
"""

import asyncio
from collections import Counter

import msgspec

from connector.control.control_key import ControlKey
from connector.control.messages import Done, Failed, FirstToken, Register
from connector.first_token import causes
from tests.integration.caches.servers import Trio
from tests.integration.failures.control_peers import GoBetween, Stranger
from tests.integration.first_token.legs import PRODUCER, SEEN_LIMIT_S, Legs, Request
from tests.real_stack import first_tokens, wait_until
from tests.tiny_servers.instances import Tokens

LENGTH = 300


def one_request(trio: Trio, name: str) -> Request:
    (prompt,) = trio.prompts(name, [LENGTH])
    return Request(prompt)


async def test_it_comes_before_the_cache(trio: Trio, legs: Legs) -> None:
    request, before = one_request(trio, "before"), await legs.counted()
    with GoBetween(legs.key, trio.producer.record, hold=(Done,)) as between:
        async with legs.stream(request, between.record) as events:
            await legs.prefill(request)
            found = await anext(events)
            await between.first(Done)
            between.let_pass()
            found += [token async for event in events for token in event]
    assert found == await legs.expected(request)
    assert await legs.counted() - before == Counter({PRODUCER: 1})


async def test_the_load_fails_after_it(trio: Trio, legs: Legs) -> None:
    """The prompt is computed, and the answer goes on behind the token that the client has."""
    request, before = one_request(trio, "failed"), await legs.counted()
    with GoBetween(legs.key, trio.producer.record, hold=(Done,)) as between:
        async with legs.stream(request, between.record) as events:
            await legs.prefill(request)
            found = await anext(events)
            registration = await between.first(Register)
            between.send(registration.reply_to, Failed(request.transfer_id, 0, 0, "a test: it shall fail"))
            found += [token async for event in events for token in event]
    assert found == await legs.expected(request)
    assert await legs.counted() - before == Counter({PRODUCER: 1})


async def test_the_client_leaves_between(trio: Trio, legs: Legs) -> None:
    request = one_request(trio, "left")
    with GoBetween(legs.key, trio.producer.record, hold=(Done,)) as between:
        async with legs.stream(request, between.record) as events:
            await legs.prefill(request)
            await anext(events)
        await between.first(Done)
        between.let_pass()
        await legs.counted()  # the consumer is idle


async def test_the_client_leaves_before_it(trio: Trio, legs: Legs) -> None:
    """The token comes for a request that is no more."""
    request = one_request(trio, "gone")
    with GoBetween(legs.key, trio.producer.record, hold=(Register,)) as between:
        decode = asyncio.create_task(legs.decode(request, between.record))
        registration = await between.first(Register)
        decode.cancel()
        await asyncio.gather(decode, return_exceptions=True)
        await legs.prefill(request)
        between.send(registration.first_token_to, a_token(registration, 65))
        between.let_pass()
        assert PRODUCER not in await legs.counted() - await legs.counted()


async def test_the_client_leaves_an_answer_of_one_token(trio: Trio, legs: Legs) -> None:
    """The token is here and waits for the load's end, because nobody would use the cache."""
    (prompt,) = trio.prompts("left with one", [LENGTH])
    request, before = Request(prompt, {"max_tokens": 1}), await legs.counted()
    with GoBetween(legs.key, trio.producer.record, hold=(Done,)) as between:
        decode = asyncio.create_task(legs.decode(request, between.record))
        await between.first(Register)
        await legs.prefill(request)
        await between.first(Done)  # which the token goes before
        decode.cancel()
        await asyncio.gather(decode, return_exceptions=True)
        between.let_pass()
        assert await legs.counted() == before, "nobody got it"


async def test_without_the_message(trio: Trio, legs: Legs) -> None:
    """It is lost: the word on the cache has the token too."""
    request, before = one_request(trio, "lost"), await legs.counted()
    with GoBetween(legs.key, trio.producer.record, hold=(Register,)) as between, Stranger(legs.key) as nowhere:
        decode = asyncio.create_task(legs.decode(request, between.record))
        registration = await between.first(Register)
        lost = msgspec.structs.replace(registration, first_token_to=nowhere.address, reply_to=between.address)
        between.send(trio.producer.record["control"][0], lost)
        await legs.prefill(request)
        assert await decode == await legs.expected(request)
        assert (await nowhere.first(FirstToken)).transfer_id == request.transfer_id
    assert await legs.counted() - before == Counter({PRODUCER: 1})


async def test_forged_and_replayed(trio: Trio, legs: Legs) -> None:
    """Another engine's, another prompt's, none of the model's, another transfer's, a peer's without the key, and the
    true one's second time with another token."""
    request, before = one_request(trio, "forged"), await legs.counted()
    expected = await legs.expected(request)
    wrong = next(token for token in range(65, 90) if token != expected[0])
    stranger_key = ControlKey.from_secret("another secret of a stranger")
    with (
        GoBetween(legs.key, trio.producer.record, hold=(Done,)) as between,
        Stranger(stranger_key) as stranger,
    ):
        async with legs.stream(request, between.record) as events:
            registration = await between.first(Register)
            there, forged = registration.first_token_to, a_token(registration, wrong)
            between.send(there, msgspec.structs.replace(forged, engine_id="another"))
            between.send(there, msgspec.structs.replace(forged, prompt="another"))
            between.send(there, msgspec.structs.replace(forged, transfer_id="another"))
            stranger.send(there, forged)
            await legs.prefill(request)
            found = await anext(events)
            between.send(there, forged)
            await between.first(Done)
            between.let_pass()
            found += [token async for event in events for token in event]
    assert found == expected
    assert await legs.counted() - before == Counter({PRODUCER: 1})


async def test_a_token_that_the_model_does_not_have(trio: Trio, legs: Legs) -> None:
    request, before = one_request(trio, "none of the model"), await legs.counted()
    with GoBetween(legs.key, trio.producer.record, hold=(Done,)) as between:
        decode = asyncio.create_task(legs.decode(request, between.record))
        registration = await between.first(Register)
        between.send(registration.first_token_to, a_token(registration, 10**9))
        await until_cause(legs, before, causes.NO_TOKEN_OF_THE_MODEL)
        await legs.prefill(request)
        await between.first(Done)
        between.let_pass()
        assert await decode == await legs.expected(request)


async def test_no_token_comes(trio: Trio, legs: Legs) -> None:
    """A producer of before, or one whose token was lost with its scheduler."""
    request, before = one_request(trio, "none"), await legs.counted()
    with GoBetween(legs.key, trio.producer.record, hold=(Register,)) as between:
        decode = asyncio.create_task(legs.decode(request, between.record))
        registration = await between.first(Register)
        old = msgspec.structs.replace(registration, first_token_to="", reply_to=between.address)
        between.send(trio.producer.record["control"][0], old)
        await legs.prefill(request)
        assert await decode == await legs.expected(request)
    assert await legs.counted() - before == Counter({("consumer", causes.NONE_CAME): 1})


async def test_the_load_fails_before_it(trio: Trio, legs: Legs) -> None:
    request, before = one_request(trio, "failed at once"), await legs.counted()
    with GoBetween(legs.key, trio.producer.record, hold=(Register,)) as between:
        decode = asyncio.create_task(legs.decode(request, between.record))
        registration = await between.first(Register)
        between.send(registration.reply_to, Failed(request.transfer_id, 0, 0, "a test: it shall fail"))
        assert await decode == await legs.expected(request)
    assert await legs.counted() - before == Counter({("consumer", causes.LOAD_FAILED): 1})


async def test_the_producer_is_killed_between(trio: Trio, legs: Legs) -> None:
    """The last test: nothing is left of the trio."""
    request = one_request(trio, "killed")
    expected: Tokens = await legs.expected(request)
    with GoBetween(legs.key, trio.producer.record, hold=(Done,)) as between:
        async with legs.stream(request, between.record) as events:
            await legs.prefill(request)
            found = await anext(events)
            trio.producer.kill()
            between.close()  # as its own channel: the consumer hears that it has ended
            found += [token async for event in events for token in event]
    assert found == expected
    await legs.counted()


def a_token(registration: Register, token: int) -> FirstToken:
    return FirstToken(registration.transfer_id, registration.engine_id, registration.prompt, token)


async def until_cause(legs: Legs, before: Counter[tuple[str, str]], cause: str) -> None:
    def counted() -> bool:
        return ("consumer", cause) in first_tokens(legs.trio.consumer.url) - before

    await asyncio.to_thread(wait_until, counted, SEEN_LIMIT_S, f"{cause} is counted")
