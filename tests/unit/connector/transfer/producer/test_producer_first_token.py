"""A producer's rank passes its scheduler's first token on, and says that the cache has come only with it."""

from typing import Any

import pytest

from connector.control.messages import Done, FirstToken, Message, Sampled
from connector.first_token.sampled import FirstSampled
from connector.scheduling.steps import ProducerStep, Queued
from tests.unit.connector.fakes import until
from tests.unit.connector.transfer.producer_rank import HERE, PROMPT, THERE, NewRank, Rank

SCHEDULER = "tcp://d1:9"
TOKEN = FirstToken("t1", "p", "digest", 65)


def queue(rank: Rank) -> None:
    rank.producer.begin_step(ProducerStep(idle=True, queued=[Queued("t1", "r1", "digest")]))


def register(rank: Rank, **changes: Any) -> None:
    rank.register(1, THERE, **({"prompt": "digest", "first_token_to": SCHEDULER} | changes))


def sampled(rank: Rank, engine: str = "p") -> None:
    rank.producer.on_message(Sampled("t1", engine, 65))


def until_moved(rank: Rank) -> None:
    until(lambda: rank.producer._transfers._under_way["t1"].shares[0].state.settled)


def taken(rank: Rank) -> tuple[str, Message]:
    until(lambda: bool(rank.outbox.sent))
    return rank.outbox.sent.pop(0)


def test_the_word_on_the_cache_waits_for_the_token(new_rank: NewRank) -> None:
    rank = new_rank()
    queue(rank)
    register(rank)
    rank.chunk(1, PROMPT, HERE, 10)
    until_moved(rank)
    assert rank.outbox.sent == []
    sampled(rank, "of an earlier incarnation")
    assert rank.outbox.sent == []
    sampled(rank)
    assert taken(rank) == (SCHEDULER, TOKEN)
    _, done = taken(rank)
    assert isinstance(done, Done)
    assert done.first_token == 65
    rank.producer.begin_step(ProducerStep(idle=True, sampled=[FirstSampled("t1", 65)]))
    rank.release(1)
    rank.until_released("r1")
    assert rank.outbox.sent == []


def test_the_step_tells_what_no_message_has(new_rank: NewRank) -> None:
    rank = new_rank()
    queue(rank)
    register(rank)
    rank.chunk(1, PROMPT, HERE, 10)
    until_moved(rank)
    rank.producer.begin_step(ProducerStep(idle=True, sampled=[FirstSampled("t1", 65)]))
    assert taken(rank) == (SCHEDULER, TOKEN)
    assert isinstance(taken(rank)[1], Done)


def test_a_request_that_ends_without_one(new_rank: NewRank) -> None:
    rank = new_rank()
    queue(rank)
    register(rank)
    rank.chunk(1, PROMPT, HERE, 10)
    until_moved(rank)
    assert rank.outbox.sent == []
    rank.release(1)
    _, done = taken(rank)
    assert isinstance(done, Done)
    assert done.first_token is None


@pytest.mark.parametrize("wanted", [True, False])
def test_a_consumer_that_comes_last(new_rank: NewRank, wanted: bool) -> None:
    rank = new_rank()
    queue(rank)
    rank.chunk(1, PROMPT, HERE, 10)
    sampled(rank)
    rank.release(1)
    register(rank, first_token_to=SCHEDULER if wanted else "")
    if wanted:
        assert taken(rank) == (SCHEDULER, TOKEN)
    _, done = taken(rank)
    assert isinstance(done, Done)
    assert done.first_token == (65 if wanted else None)


def test_a_consumer_that_wants_none_waits_for_none(new_rank: NewRank) -> None:
    rank = new_rank()
    queue(rank)
    register(rank, first_token_to="")
    rank.chunk(1, PROMPT, HERE, 10)
    assert isinstance(taken(rank)[1], Done)


def test_another_prompts_token_is_not_told(new_rank: NewRank) -> None:
    rank = new_rank()
    queue(rank)
    register(rank, prompt="another")
    sampled(rank)
    until(lambda: bool(rank.outbox.sent))
    assert not any(isinstance(message, FirstToken) for _, message in rank.outbox.sent)
