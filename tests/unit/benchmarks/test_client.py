"""How a request takes its route, against scripted servers."""

import asyncio
import dataclasses

import pytest

from benchmarks.connector.client import Client, open_client
from benchmarks.connector.topology.routes import Way
from benchmarks.deadline import Deadline
from benchmarks.errors import OutOfTime, RequestFailed
from tests.unit.benchmarks.conftest import Scripted
from tests.unit.benchmarks.scripted_vllm import FACTS

PROMPT = list(range(100, 132))


async def test_both_legs_are_under_way_at_the_same_time(scripted: Scripted, client: Client) -> None:
    scripted.producer.before = scripted.consumer.arrived.wait
    scripted.consumer.before = scripted.producer.arrived.wait
    await client.first_token(scripted.pair, PROMPT)
    to_producer = scripted.producer.asked[0]["kv_transfer_params"]
    to_consumer = scripted.consumer.asked[0]["kv_transfer_params"]
    assert to_producer["do_remote_decode"] is True
    assert to_consumer["do_remote_prefill"] is True
    assert to_consumer["transfer_id"] == to_producer["transfer_id"]
    assert to_consumer["producer"] == {"engine_id": "p-1"}


async def test_a_first_token_carries_the_facts_of_its_transfer(scripted: Scripted, client: Client) -> None:
    first = await client.first_token(scripted.pair, PROMPT)
    assert first.transfer == {"first_token": "producer", **FACTS}
    assert first.cached_tokens == 31
    assert first.prefill_s is not None
    assert first.ttft_s > 0
    assert first.second_s > 0


async def test_the_single_server_gets_one_plain_request(scripted: Scripted, client: Client) -> None:
    first = await client.first_token(scripted.alone, PROMPT)
    (asked,) = scripted.single.asked
    assert "kv_transfer_params" not in asked
    assert asked["prompt"] == PROMPT
    assert asked["max_tokens"] == 2
    assert first.transfer is None
    assert first.prefill_s is None


async def test_every_transfer_has_an_id_of_its_own(scripted: Scripted, client: Client) -> None:
    for _ in range(2):
        await client.first_token(scripted.pair, PROMPT)
    ids = [body["kv_transfer_params"]["transfer_id"] for body in scripted.consumer.asked]
    assert len(set(ids)) == 2


async def test_requests_take_the_engines_in_turn(scripted: Scripted, client: Client) -> None:
    ways = [Way(consumer, producer, {"producer": producer}) for producer, consumer in ((0, 0), (1, 1), (0, 1))]
    for _ in range(4):
        await client.first_token(dataclasses.replace(scripted.pair, ways=ways), PROMPT)
    assert scripted.producer.ranks == ["0", "1", "0", "0"]
    assert scripted.consumer.ranks == ["0", "1", "1", "0"]
    producers = [body["kv_transfer_params"]["producer"] for body in scripted.consumer.asked]
    assert producers == [0, 1, 0, 0]


async def test_a_server_of_one_engine_is_told_no_rank(scripted: Scripted, client: Client) -> None:
    await client.first_token(scripted.pair, PROMPT)
    assert (scripted.producer.ranks, scripted.consumer.ranks) == ([None], [None])


async def test_a_consumer_that_computed_the_prompt_itself_is_no_measurement(scripted: Scripted, client: Client) -> None:
    scripted.consumer.cached_tokens = 0
    with pytest.raises(RequestFailed, match="no KV cache came from the producer"):
        await client.first_token(scripted.pair, PROMPT)


async def test_a_stream_has_the_gaps_between_its_tokens(scripted: Scripted, client: Client) -> None:
    stream = await client.stream(scripted.pair, PROMPT, 5)
    assert stream.tokens == [0, 1, 2, 3, 4]
    assert len(stream.itl_s) == 4
    assert stream.ttft_s > 0


async def test_a_stream_that_is_too_short_is_no_measurement(scripted: Scripted, client: Client) -> None:
    scripted.single.too_few = 2
    with pytest.raises(RequestFailed, match="3 tokens came instead of 5"):
        await client.stream(scripted.alone, PROMPT, 5)


@pytest.mark.timeout(20)
async def test_a_leg_that_fails_ends_the_other(scripted: Scripted, client: Client) -> None:
    scripted.consumer.before = asyncio.Event().wait  # never answers
    scripted.producer.status = 500
    with pytest.raises(RequestFailed, match="HTTP 500"):
        await client.first_token(scripted.pair, PROMPT)


@pytest.mark.timeout(20)
async def test_a_server_that_never_answers_is_one_failed_request(scripted: Scripted) -> None:
    scripted.single.before = asyncio.Event().wait
    async with open_client(0.05, Deadline(30.0)) as client:
        with pytest.raises(RequestFailed, match="TimeoutError"):
            await client.first_token(scripted.alone, PROMPT)


@pytest.mark.timeout(20)
async def test_the_end_of_the_run_ends_a_request_too(scripted: Scripted) -> None:
    scripted.single.before = asyncio.Event().wait
    async with open_client(30.0, Deadline(0.05)) as client:
        with pytest.raises(OutOfTime, match=r"the time limit of 0\.05 s has passed"):
            await client.first_token(scripted.alone, PROMPT)


async def test_a_server_that_is_gone_is_named(client: Client, scripted: Scripted) -> None:
    gone = type(scripted.alone)("single", "http://127.0.0.1:1")
    with pytest.raises(RequestFailed, match=r"http://127\.0\.0\.1:1: ClientConnectorError"):
        await client.first_token(gone, PROMPT)
