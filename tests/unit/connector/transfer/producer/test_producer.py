"""The producer's rank with real sender threads: what arrives, and who may have it."""

import threading
from collections.abc import Callable
from typing import Any

import pytest

from connector.control.messages import Cancelled, Done, Failed, GroupBlocks, LayerPlace
from connector.scheduling.steps import ProducerStep, Queued
from tests.unit.connector.fake_layouts import HEADS, LAYERS, PAGE
from tests.unit.connector.fakes import LIMIT_S, LateFences, until
from tests.unit.connector.transfer.producer_rank import HERE, LONG_S, PROMPT, THERE, NewRank, Rank, consumer_first


def consumer_between_chunks(rank: Rank) -> None:
    rank.chunk(1, PROMPT, HERE[:2], 6)
    rank.register(1, THERE)
    rank.chunk(1, PROMPT, HERE, 10)
    rank.release(1)


def consumer_before_the_release(rank: Rank) -> None:
    rank.chunk(1, PROMPT, HERE, 10)
    rank.register(1, THERE)
    rank.release(1)


def consumer_last(rank: Rank) -> None:
    rank.chunk(1, PROMPT, HERE, 10)
    rank.release(1)
    assert rank.collect() == []

    rank.register(1, THERE)


def both_at_once(rank: Rank) -> None:
    consumer = threading.Thread(target=rank.register, args=(1, THERE), daemon=True)
    consumer.start()
    rank.chunk(1, PROMPT, HERE[:2], 6)
    rank.chunk(1, PROMPT, HERE, 10)
    rank.release(1)
    consumer.join()


@pytest.mark.parametrize(
    "events", [consumer_first, consumer_between_chunks, consumer_before_the_release, consumer_last, both_at_once]
)
def test_a_whole_transfer(new_rank: NewRank, events: Callable[[Rank], None]) -> None:
    rank = new_rank()
    events(rank)
    done = rank.outbox.take_next()
    assert isinstance(done, Done)
    assert (done.transfer_id, done.bytes, done.transport) == ("t1", LAYERS * 3 * PAGE, "tcp")
    assert 0 <= done.early_bytes <= done.bytes
    assert done.seconds >= 0
    assert done.exposed_seconds >= 0
    rank.until_released("r1")
    rank.assert_arrived(1, THERE)
    assert rank.outbox.untaken() == []
    rank.assert_nothing_left()


def test_bytes_that_moved_before_the_end_of_the_prefill_count_as_early(new_rank: NewRank) -> None:
    rank = new_rank()
    rank.register(1, THERE)
    rank.chunk(1, PROMPT, HERE[:2], 8)
    until(lambda: rank.engine.returned > 0 and not rank.producer._transfers._under_way["t1"].shares[0].state.has_work())
    until(lambda: rank.producer._transfers._under_way["t1"].shares[0].bytes == 2 * LAYERS * PAGE)
    rank.chunk(1, PROMPT, HERE, 10)
    done = rank.outbox.take_next()
    assert isinstance(done, Done)
    assert done.early_bytes >= 2 * LAYERS * PAGE


def test_only_blocks_from_the_consumers_own_prefix_on_are_sent(new_rank: NewRank) -> None:
    rank = new_rank()
    rank.register(1, [30], first_block=2)
    rank.chunk(1, PROMPT, HERE, 10)
    done = rank.outbox.take_next()
    assert isinstance(done, Done)
    assert done.bytes == LAYERS * PAGE
    rank.assert_arrived(1, [30], first_block=2)


def test_on_a_gpu_nothing_is_sent_before_the_fence(new_rank: NewRank) -> None:
    fences = LateFences()
    rank = new_rank(fences=fences)
    rank.register(1, THERE)
    rank.chunk(1, PROMPT, HERE, 10)
    rank.release(1)
    assert not rank.producer._transfers._under_way["t1"].shares[0].state.has_work()
    assert rank.engine.writes == []
    fences.drain()
    assert isinstance(rank.outbox.take_next(), Done)
    rank.until_released("r1")


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({"fingerprint": "other"}, "wrong layout"),
        ({"groups": [GroupBlocks(0, THERE)] * 2}, "wrong layout"),
        ({"layers": [LayerPlace("another", 0, PAGE, 0, HEADS)]}, "wrong layout"),
        ({"groups": [GroupBlocks(0, [])]}, "bad registration"),
    ],
)
def test_a_wrong_registration_is_refused_and_harms_nobody(
    new_rank: NewRank, changes: dict[str, Any], kind: str
) -> None:
    rank = new_rank()
    rank.register(1, THERE, reply_to="tcp://stranger:1", **changes)
    failed = rank.outbox.take_next()
    assert isinstance(failed, Failed)
    assert (failed.delivered_blocks, failed.cause.partition(":")[0]) == (0, kind)
    consumer_first(rank)
    assert isinstance(rank.outbox.take_next(), Done)
    rank.assert_arrived(1, THERE)
    rank.until_released("r1")


def test_a_wrong_number_of_tokens_is_told_as_soon_as_the_prompt_is_known(new_rank: NewRank) -> None:
    rank = new_rank()
    rank.register(1, THERE[:2], tokens=8)
    rank.chunk(1, PROMPT, HERE[:1], 3)
    failed = rank.outbox.take_next()
    assert isinstance(failed, Failed)
    assert failed.cause.startswith("wrong prompt: ")
    rank.chunk(1, PROMPT, HERE, 10)
    rank.release(1)
    rank.until_released("r1")
    assert rank.engine.writes == []
    rank.assert_nothing_left()


@pytest.mark.parametrize("registered_first", [True, False], ids=["registered first", "queued first"])
def test_a_prompt_of_other_tokens_is_told_before_it_is_computed(new_rank: NewRank, registered_first: bool) -> None:
    """Of the same length, as from a chat template with the time of day. Nobody waits, and no block is held for it."""
    rank = new_rank()
    queued = ProducerStep(idle=True, queued=[Queued("t1", "r1", "12:00:01")])
    if not registered_first:
        rank.producer.begin_step(queued)
    rank.register(1, THERE, prompt="12:00:02")
    if registered_first:
        assert rank.outbox.untaken() == []
        rank.producer.begin_step(queued)
    failed = rank.outbox.take_next()
    assert isinstance(failed, Failed)
    assert (failed.delivered_blocks, failed.unended) == (0, False)
    assert failed.cause.startswith("wrong prompt: ")
    assert "time of day" in failed.cause
    rank.chunk(1, PROMPT, HERE, 10)
    rank.release(1)
    rank.until_released("r1")
    assert rank.engine.writes == []
    rank.assert_nothing_left()
    taken = rank.stats.take()
    assert taken is not None
    assert taken["counted"] == [["registrations", "accepted", 1], ["failed_shares", "wrong prompt", "tcp", 1]]


def test_a_second_consumer_is_refused_while_the_first_is_served(new_rank: NewRank) -> None:
    rank = new_rank()
    rank.register(1, THERE)
    rank.register(1, THERE, reply_to="tcp://stranger:1", segments="segment9")
    assert rank.outbox.sent[0][0] == "tcp://stranger:1"
    assert isinstance(rank.outbox.take_next(), Failed)
    rank.chunk(1, PROMPT, HERE, 10)
    assert isinstance(rank.outbox.take_next(), Done)
    assert {segment for segment, _ in rank.engine.writes} == {"segment1"}


def test_a_repeated_registration_gets_no_answer_while_its_blocks_are_written(new_rank: NewRank) -> None:
    """An answer tells the consumer that nobody writes any more: it would reuse blocks that are still written to."""
    rank = new_rank()
    gate = rank.engine.hold("segment1")
    registration = rank.register(1, THERE)
    rank.chunk(1, PROMPT, HERE, 10)
    assert gate.entered.wait(LIMIT_S)
    rank.producer.on_message(registration)
    assert rank.outbox.sent == []
    gate.opened.set()
    assert isinstance(rank.outbox.take_next(), Done)
    rank.release(1)
    rank.until_released("r1")
    rank.producer.on_message(registration)
    late = rank.outbox.take_next()
    assert isinstance(late, Failed)
    assert late.cause.startswith("already delivered: ")


def test_what_is_computed_during_a_write_follows_it(new_rank: NewRank) -> None:
    rank = new_rank()
    gate = rank.engine.hold("segment1")
    rank.register(1, THERE)
    rank.chunk(1, PROMPT, HERE[:2], 4)
    assert gate.entered.wait(LIMIT_S)
    rank.chunk(1, PROMPT, HERE, 10)
    gate.opened.set()
    assert isinstance(rank.outbox.take_next(), Done)
    assert len(rank.engine.writes) > 1
    rank.assert_arrived(1, THERE)


def test_others_go_on_while_one_consumer_does_not_take_its_bytes(new_rank: NewRank) -> None:
    rank = new_rank(senders=2)
    gate = rank.engine.hold("segment1")
    rank.register(1, [1], tokens=4)
    rank.chunk(1, 4, [1], 4)
    assert gate.entered.wait(LIMIT_S)
    for number in range(2, 8):
        rank.register(number, [number], tokens=4)
        rank.chunk(number, 4, [number], 4)
        assert isinstance(done := rank.outbox.take_next(), Done)
        assert done.transfer_id == f"t{number}"
        rank.release(number)
    rank.until_released(*(f"r{number}" for number in range(2, 8)))
    rank.release(1)
    gate.opened.set()
    assert isinstance(rank.outbox.take_next(), Done)
    until(lambda: "r1" in rank.collect())
    rank.assert_nothing_left()


def test_waiting_for_a_finished_request_ends_with_the_transfer(new_rank: NewRank) -> None:
    rank = new_rank()
    gate = rank.engine.hold("segment1")
    consumer_first(rank)
    assert gate.entered.wait(LIMIT_S)
    finished: list[set[str]] = []
    vllm = threading.Thread(target=lambda: finished.append(rank.producer.take_finished(LIMIT_S)), daemon=True)
    vllm.start()
    gate.opened.set()
    vllm.join(LIMIT_S)
    assert not vllm.is_alive()
    while finished == [set()]:  # woken by a write that was not the last
        finished = [rank.producer.take_finished(LIMIT_S)]
    assert finished == [{"r1"}]


def test_waiting_with_nothing_held_returns_at_once(new_rank: NewRank) -> None:
    assert new_rank().producer.take_finished(LONG_S) == set()


def test_a_consumers_messages_are_ignored(new_rank: NewRank, caplog: pytest.LogCaptureFixture) -> None:
    rank = new_rank()
    rank.producer.on_message(Cancelled("t1", 0))
    assert "ignored a Cancelled" in caplog.text
    rank.assert_nothing_left()


def test_ended_transfers_are_remembered_within_bounds(new_rank: NewRank, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("connector.transfer.transfers.REMEMBERED_ENDS", 3)
    rank = new_rank()
    for number in range(10):
        rank.cancel(number)
    assert list(rank.producer._transfers._ended) == ["t7", "t8", "t9"]
    rank.assert_nothing_left()


def test_failures_are_counted_by_kind(new_rank: NewRank) -> None:
    rank = new_rank()
    rank.register(1, THERE, fingerprint="other")
    rank.cancel(2)
    rank.release(3, complete=False)
    taken = rank.stats.take()
    assert taken is not None
    assert taken["counted"] == [
        ["registrations", "wrong layout", 1],
        ["failed_shares", "cancelled", "", 1],
        ["failed_shares", "aborted", "", 1],
    ]
