"""Aborts, cancellations, time-outs and lost writes: the consumer is told, every request is released."""

import pytest

from connector.control.messages import Cancelled, Done, Failed, Mended
from connector.scheduling.steps import ProducerStep, Queued
from tests.unit.connector.fake_layouts import NUM_BLOCKS, PAGE
from tests.unit.connector.fakes import LIMIT_S, until
from tests.unit.connector.transfer.producer_rank import HERE, PROMPT, THERE, NewRank, consumer_first


@pytest.mark.parametrize("when", ["before its first chunk", "between chunks", "with a consumer waiting"])
def test_an_aborted_prefill_is_told_to_the_consumer(new_rank: NewRank, when: str) -> None:
    rank = new_rank()
    if when == "with a consumer waiting":
        rank.register(1, THERE)
    if when != "before its first chunk":
        rank.chunk(1, PROMPT, HERE[:2], 3)
    rank.release(1, complete=False)
    rank.until_released("r1")
    if when != "with a consumer waiting":
        rank.register(1, THERE)
    failed = rank.outbox.take_next()
    assert isinstance(failed, Failed)
    assert (failed.delivered_blocks, failed.cause.partition(":")[0]) == (0, "aborted")
    rank.assert_nothing_left()


def test_an_abort_during_a_write_waits_for_it(new_rank: NewRank) -> None:
    rank = new_rank()
    gate = rank.engine.hold("segment1")
    rank.register(1, THERE)
    rank.chunk(1, PROMPT, HERE[:2], 6)
    assert gate.entered.wait(LIMIT_S)
    rank.release(1, complete=False)
    assert rank.collect() == []
    assert rank.outbox.sent == []
    gate.opened.set()
    assert isinstance(rank.outbox.take_next(), Failed)
    assert rank.engine.returned == len(rank.engine.writes)
    rank.until_released("r1")
    rank.assert_nothing_left()


def test_a_cancel_during_a_write_is_answered_when_it_has_returned(new_rank: NewRank) -> None:
    rank = new_rank()
    gate = rank.engine.hold("segment1")
    rank.register(1, THERE)
    rank.chunk(1, PROMPT, HERE[:2], 6)
    assert gate.entered.wait(LIMIT_S)
    rank.cancel(1)
    assert rank.outbox.sent == []
    gate.opened.set()
    assert rank.outbox.take_next() == Cancelled("t1", 0)
    assert rank.engine.wanted == [False], "what was not posted yet stays so, however slow the network is"
    writes = len(rank.engine.writes)
    assert rank.engine.returned == writes
    rank.chunk(1, PROMPT, HERE, 10)
    rank.release(1)
    rank.until_released("r1")
    assert len(rank.engine.writes) == writes
    assert rank.outbox.answers_to("t1") == [Cancelled("t1", 0)]
    rank.assert_nothing_left()


def test_a_producer_that_was_stopped_for_long_posts_nothing_when_it_wakes(new_rank: NewRank) -> None:
    """The consumer has taken its memory back meanwhile; its cancellation may be read later than a sender wakes."""
    rank = new_rank()
    gate = rank.engine.hold("segment1")
    rank.register(1, THERE)
    rank.chunk(1, PROMPT, HERE[:2], 6)
    assert gate.entered.wait(LIMIT_S)
    rank.producer._ticked -= LIMIT_S * 10
    gate.opened.set()
    until(lambda: rank.engine.wanted == [False])
    rank.producer.on_tick()
    failed = rank.outbox.take_next()
    assert isinstance(failed, Failed)
    assert failed.cause == f"standstill: the producer was stopped for {LIMIT_S * 10:.0f} s"
    rank.chunk(1, PROMPT, HERE, 10)
    rank.release(1)
    rank.until_released("r1")
    assert rank.engine.wanted == [False], "no other write"
    rank.assert_nothing_left()


def test_who_asks_again_is_told_again(new_rank: NewRank) -> None:
    """Also that bytes may be on their way: the first word may be lost."""
    rank = new_rank()
    rank.engine.without_end.add("segment1")
    rank.register(1, THERE)
    assert rank.outbox.sent == [], "there is nothing to say yet"
    rank.register(1, THERE)
    rank.chunk(1, PROMPT, HERE, 10)
    first = rank.outbox.take_next()
    assert isinstance(first, Failed)
    assert first.unended
    rank.register(1, THERE)
    assert rank.outbox.take_next() == first
    rank.release(1)
    rank.until_released("r1")
    rank.register(1, THERE)
    refused = rank.outbox.take_next()
    assert isinstance(refused, Failed)
    assert (refused.delivered_blocks, refused.unended) == (0, True)
    rank.cancel(1)
    assert rank.outbox.take_next() == Cancelled("t1", 0, True)
    rank.producer.on_peer_back("tcp://d1:1")
    assert rank.outbox.sent[-1] == ("tcp://d1:1", Mended("tcp://p:1"))


@pytest.mark.parametrize("registered", [True, False], ids=["registered", "cancel overtook the registration"])
@pytest.mark.parametrize("started", [True, False], ids=["prefill under way", "request not yet here"])
def test_a_cancel_is_answered_at_once_and_the_request_goes_on(
    new_rank: NewRank, registered: bool, started: bool
) -> None:
    """The registration comes from the consumer's scheduler, a cancel from its worker: two sockets, no order."""
    rank = new_rank()
    if started:
        rank.chunk(1, PROMPT, HERE[:1], 3)
    if registered:
        rank.register(1, THERE)
    rank.cancel(1)
    assert rank.outbox.take_next() == Cancelled("t1", 0)
    if not registered:
        rank.register(1, THERE)
    rank.chunk(1, PROMPT, HERE, 10)
    rank.release(1)
    rank.until_released("r1")
    assert rank.engine.writes == []
    assert not any(isinstance(answer, Done) for answer in rank.outbox.answers_to("t1"))
    rank.assert_nothing_left()


def test_a_cancel_after_the_end_is_answered(new_rank: NewRank) -> None:
    """The consumer asks again when the first answer was lost with a connection."""
    rank = new_rank()
    consumer_first(rank)
    assert isinstance(rank.outbox.take_next(), Done)
    rank.until_released("r1")
    rank.cancel(1)
    assert rank.outbox.take_next() == Cancelled("t1", 0)


def test_a_cancel_between_the_answer_and_the_release_is_answered(new_rank: NewRank) -> None:
    rank = new_rank()
    rank.register(1, THERE)
    rank.chunk(1, PROMPT, HERE, 10)
    assert isinstance(rank.outbox.take_next(), Done)
    rank.cancel(1)
    assert rank.outbox.take_next() == Cancelled("t1", 0)
    rank.release(1)
    rank.until_released("r1")
    assert rank.outbox.untaken() == []


def test_a_consumer_that_never_comes_releases_the_blocks(new_rank: NewRank) -> None:
    rank = new_rank(patience=0.0)
    rank.chunk(1, PROMPT, HERE, 10)
    rank.producer.on_tick()
    assert rank.collect() == []  # patience begins when the prefill has ended
    rank.release(1)
    until(lambda: rank.tick() and rank.collect() == ["r1"])
    rank.register(1, THERE)
    failed = rank.outbox.take_next()
    assert isinstance(failed, Failed)
    assert failed.cause.startswith("no consumer: ")
    assert rank.engine.writes == []
    rank.assert_nothing_left()


def test_a_request_that_waits_in_vllms_queue_has_come(new_rank: NewRank) -> None:
    rank = new_rank(patience=0.0)
    rank.producer.begin_step(ProducerStep(idle=True, queued=[Queued("t1", "r1", "")]))
    rank.register(1, THERE)
    rank.tick()
    assert rank.outbox.untaken() == []
    rank.chunk(1, PROMPT, HERE, 10)
    assert isinstance(rank.outbox.take_next(), Done)
    rank.release(1)
    rank.until_released("r1")
    rank.assert_arrived(1, THERE)
    rank.assert_nothing_left()


def test_a_request_that_never_comes_is_told_to_the_consumer(new_rank: NewRank) -> None:
    rank = new_rank(patience=0.0)
    rank.register(1, THERE)
    until(lambda: rank.tick() and bool(rank.outbox.sent))
    failed = rank.outbox.take_next()
    assert isinstance(failed, Failed)
    assert failed.cause.startswith("no prefill: ")
    rank.assert_nothing_left()
    rank.chunk(1, PROMPT, HERE, 10)  # it comes after all: an ordinary request, which nobody waits for
    rank.release(1)
    rank.until_released("r1")
    rank.assert_nothing_left()


def test_patience_does_not_end_what_is_at_work(new_rank: NewRank) -> None:
    rank = new_rank(patience=0.0)
    gate = rank.engine.hold("segment1")
    rank.chunk(1, PROMPT, HERE, 10)
    rank.register(1, THERE)
    rank.release(1)
    assert gate.entered.wait(LIMIT_S)
    for _ in range(3):
        rank.producer.on_tick()
    gate.opened.set()
    assert isinstance(rank.outbox.take_next(), Done)
    rank.until_released("r1")


def test_a_lost_write_ends_the_transfer_with_what_had_arrived(new_rank: NewRank) -> None:
    rank = new_rank()
    rank.register(1, THERE)
    rank.chunk(1, PROMPT, HERE[:1], 4)
    until(lambda: rank.producer._transfers._under_way["t1"].shares[0].state.delivered_blocks == 1)
    rank.engine.broken.add("segment1")
    rank.chunk(1, PROMPT, HERE, 10)
    failed = rank.outbox.take_next()
    assert isinstance(failed, Failed)
    assert failed.delivered_blocks == 1
    assert failed.cause.startswith("write failed: ")
    rank.assert_arrived(1, THERE[:1])
    rank.release(1)
    rank.until_released("r1")
    assert rank.outbox.untaken() == []
    rank.assert_nothing_left()


def test_an_error_that_nobody_foresaw_is_told_too_and_harms_no_other_transfer(new_rank: NewRank) -> None:
    rank = new_rank(senders=1)
    rank.engine.faulty.add("segment1")
    rank.register(1, THERE)
    rank.chunk(1, PROMPT, HERE, PROMPT)
    rank.release(1)
    failed = rank.outbox.take_next()
    assert isinstance(failed, Failed)
    assert failed.cause == "write failed: RuntimeError('CUDA error: out of memory')"
    assert failed.unended
    rank.register(2, THERE)
    rank.chunk(2, PROMPT, HERE, PROMPT)
    rank.release(2)
    assert isinstance(rank.outbox.take_next(), Done)
    rank.until_released("r1", "r2")
    rank.assert_nothing_left()


@pytest.mark.parametrize("first_to_end", [1, 2])
def test_two_requests_of_one_transfer_are_both_released(new_rank: NewRank, first_to_end: int) -> None:
    """With n > 1 vLLM makes several requests of one; the first to be computed owns the transfer."""
    rank = new_rank()
    rank.register(1, THERE)
    rank.chunk(1, PROMPT, HERE[:1], 4, request="one")
    rank.chunk(1, PROMPT, [50, 51, 52], 10, request="two")
    rank.preempt("two")
    requests = ["one", "two"] if first_to_end == 1 else ["two", "one"]
    if first_to_end == 2:
        rank.release(1, request="two")
    rank.chunk(1, PROMPT, HERE, 10, request="one")
    assert isinstance(rank.outbox.take_next(), Done)
    rank.release(1, request="one")
    if first_to_end == 1:
        rank.release(1, request="two")
    rank.until_released(*requests)
    rank.assert_arrived(1, THERE)
    used = {piece.source // PAGE % NUM_BLOCKS for _, pieces in rank.engine.writes for piece in pieces}
    assert not used & {50, 51, 52}
    rank.assert_nothing_left()
