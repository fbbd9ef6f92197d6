"""The consumer's rank: every request that waits is reported once, with exactly the blocks that did not arrive."""

import threading

import pytest

from connector.control.messages import Cancel, Cancelled, Done, Failed, Outcome, Register
from connector.scheduling.steps import ConsumerStep
from tests.unit.connector.fakes import LIMIT_S, until
from tests.unit.connector.transfer.consumer.consumer_rank import (
    BLOCKS,
    DONE,
    LONG_S,
    PRODUCERS,
    TWO_TO_ONE,
    Rank,
)


@pytest.mark.parametrize("early", [True, False], ids=["answered before the load was known", "answered after"])
@pytest.mark.parametrize(
    ("outcome", "invalid"),
    [
        (DONE, set()),
        (Failed("t1", 0, 0, "aborted: x"), {7, 8, 3}),
        (Failed("t1", 0, 1, "aborted: x"), {8, 3}),
        (Failed("t1", 0, 2, "aborted: x"), {3}),
        (Failed("t1", 0, 3, "aborted: x"), set()),
        (Cancelled("t1", 0), {7, 8, 3}),
    ],
    ids=["done", "0 delivered", "1 delivered", "2 delivered", "all delivered", "cancelled"],
)
def test_what_did_not_arrive_is_invalid(early: bool, outcome: Outcome, invalid: set[int]) -> None:
    rank = Rank()
    if early:
        rank.consumer.on_message(outcome)
        assert rank.consumer.take_finished(0.0) == set()
    rank.load()
    if not early:
        assert rank.consumer.take_finished(0.0) == set()
        rank.consumer.on_message(outcome)
    assert rank.consumer.take_finished(0.0) == {"r1"}
    assert rank.consumer.take_invalid_blocks() == invalid
    assert rank.consumer.take_failed() == set(), "vLLM goes on from what arrived"
    assert rank.consumer.take_done() == ({"r1": DONE} if outcome is DONE else {})
    rank.assert_nothing_left()


def test_received_bytes_and_failures_are_counted() -> None:
    rank = Rank()
    outcomes: list[Outcome] = [Done("t0", 0, 96, 0, 3, 0.5, 0.1, "tcp"), Failed("t1", 0, 1, "write failed: x")]
    for number, outcome in enumerate(outcomes):
        rank.load(number)
        rank.consumer.on_message(outcome)
    rank.consumer.take_finished(0.0)
    taken = rank.stats.take()
    assert taken is not None
    assert taken["counted"] == [
        ["received_shares", "tcp", 1],
        ["received_bytes", "tcp", 96],
        ["received_tokens", "tcp", 12],
        ["failed_shares", "write failed", "", 1],
    ]


@pytest.mark.parametrize(
    "outcome",
    [Done("t1", 1, 96, 32, 3, 0.5, 0.1, "tcp"), Failed("t1", 1, 1, "aborted: x"), Cancelled("t1", 1)],
    ids=lambda o: type(o).__name__,
)
def test_an_aborted_wait_is_cancelled_and_ends_without_invalid_blocks(outcome: Outcome) -> None:
    rank = Rank(rank=1)
    rank.load()
    rank.abort()
    assert rank.outbox.sent == [("tcp://p-rank1:1", Cancel("t1", "tcp://d:1"))]
    assert rank.consumer.take_finished(0.0) == set()  # the producer may still write
    rank.consumer.on_message(outcome)
    assert rank.consumer.take_finished(0.0) == {"r1"}
    assert rank.consumer.take_invalid_blocks() == set()
    assert rank.failures() == {}


def test_an_abort_in_the_step_of_the_load_is_seen() -> None:
    rank = Rank()
    rank.consumer.begin_step(ConsumerStep(idle=True, loads=[rank.new_load()], aborted=["t1"]))
    assert rank.outbox.take_next() == Cancel("t1", "tcp://d:1")
    rank.consumer.on_message(Cancelled("t1", 0))
    assert rank.consumer.take_finished(0.0) == {"r1"}
    rank.assert_nothing_left()


def test_an_abort_after_the_end_changes_nothing() -> None:
    rank = Rank()
    rank.load()
    rank.consumer.on_message(DONE)
    assert rank.consumer.take_finished(0.0) == {"r1"}
    rank.abort()
    assert rank.outbox.sent == []
    assert rank.consumer.take_finished(0.0) == set()


def test_only_the_first_answer_counts() -> None:
    rank = Rank()
    rank.load()
    for outcome in (Failed("t1", 0, 1, "write failed: x"), DONE, Cancelled("t1", 0)):
        rank.consumer.on_message(outcome)
    assert rank.consumer.take_finished(0.0) == {"r1"}
    assert rank.consumer.take_invalid_blocks() == {8, 3}
    rank.consumer.on_message(DONE)
    assert rank.consumer.take_finished(0.0) == set()
    rank.assert_nothing_left()


def test_a_silent_producer_is_cancelled_once_and_then_given_up() -> None:
    rank = Rank(timeout=0.0, cancel_timeout=0.0)
    rank.load()
    until(lambda: rank.tick() and bool(rank.outbox.sent))
    assert rank.outbox.sent == [("tcp://p-rank0:1", Cancel("t1", "tcp://d:1"))]
    until(lambda: rank.tick() and bool(rank.revoked()))
    assert rank.consumer.take_finished(0.0) == {"r1"}
    assert rank.consumer.take_invalid_blocks() == set(BLOCKS)
    assert len(rank.outbox.sent) == 1
    assert rank.failures() == {"timed out": 1}
    rank.assert_nothing_left()


def test_a_producer_that_stops_in_time_counts_as_timed_out_too() -> None:
    rank = Rank(timeout=0.0)
    rank.load()
    until(lambda: rank.tick() and bool(rank.outbox.sent))
    for _ in range(3):
        rank.consumer.on_tick()
    assert rank.consumer.take_finished(0.0) == set()
    rank.consumer.on_message(Cancelled("t1", 0))
    assert rank.consumer.take_finished(0.0) == {"r1"}
    assert rank.consumer.take_invalid_blocks() == set(BLOCKS)
    assert rank.failures() == {"timed out": 1}
    assert len(rank.outbox.sent) == 1


def test_an_abort_after_the_cancel_sends_no_second_one() -> None:
    rank = Rank(timeout=0.0)
    rank.load()
    until(lambda: rank.tick() and bool(rank.outbox.sent))
    rank.abort()
    assert len(rank.outbox.sent) == 1
    rank.consumer.on_message(Cancelled("t1", 0))
    assert rank.consumer.take_finished(0.0) == {"r1"}
    assert rank.consumer.take_invalid_blocks() == set()


def test_answers_that_nobody_asks_for_are_forgotten() -> None:
    rank = Rank(timeout=0.0)
    rank.consumer.on_message(DONE)
    until(lambda: rank.tick() and not rank.consumer._early)
    rank.load()
    assert rank.consumer.take_finished(0.0) == set()


def test_several_transfers_end_on_their_own() -> None:
    rank = Rank()
    for number in range(4):
        rank.load(number)
    rank.consumer.on_message(Failed("t2", 0, 3, "aborted: x"))
    rank.consumer.on_message(Done("t0", 0, 96, 0, 3, 0.5, 0.1, "tcp"))
    assert rank.consumer.take_finished(0.0) == {"r0", "r2"}
    rank.abort(3)
    rank.consumer.on_message(Cancelled("t3", 0))
    rank.consumer.on_message(Cancelled("t1", 0))
    assert rank.consumer.take_finished(0.0) == {"r1", "r3"}
    rank.consumer.take_invalid_blocks()
    rank.consumer.take_done()
    rank.assert_nothing_left()


def test_waiting_ends_with_an_answer() -> None:
    rank = Rank()
    rank.load()
    finished: list[set[str]] = []
    vllm = threading.Thread(target=lambda: finished.append(rank.consumer.take_finished(LIMIT_S * 2)), daemon=True)
    vllm.start()
    rank.consumer.on_message(DONE)
    vllm.join(LIMIT_S)
    assert finished == [{"r1"}]


def test_waiting_for_nothing_returns_at_once() -> None:
    assert Rank().consumer.take_finished(LONG_S) == set()


def test_a_producers_messages_are_ignored(caplog: pytest.LogCaptureFixture) -> None:
    rank = Rank()
    rank.consumer.on_message(Cancel("t1", "tcp://d:1"))
    rank.consumer.on_message(Register("t1", "p", "f", "d", 0, 1, {}, "", 1, [], []))
    assert "ignored a Cancel" in caplog.text
    assert "ignored a Register" in caplog.text
    rank.assert_nothing_left()


def test_a_transfer_ends_with_the_last_of_its_sources() -> None:
    rank = Rank()
    rank.load(plan=TWO_TO_ONE)
    assert rank.outbox.watched == PRODUCERS
    rank.consumer.on_message(Done("t1", 0, 96, 32, 3, 0.5, 0.1, "tcp"))
    rank.consumer.on_message(Done("t1", 0, 96, 32, 3, 0.5, 0.1, "tcp"))
    assert rank.consumer.take_finished(0.0) == set()
    rank.consumer.on_message(Done("t1", 1, 4, 2, 1, 0.7, 0.0, "tcp"))
    assert rank.consumer.take_finished(0.0) == {"r1"}
    assert rank.consumer.take_done() == {"r1": Done("t1", 0, 100, 34, 4, 0.7, 0.1, "tcp")}
    rank.assert_nothing_left()


@pytest.mark.parametrize(
    ("answers", "invalid", "cause"),
    [
        ([DONE, Failed("t1", 1, 2, "aborted: x")], {3}, "aborted"),
        ([Failed("t1", 0, 2, "aborted: x"), Failed("t1", 1, 1, "write failed: x")], {8, 3}, "write failed"),
        ([DONE, Cancelled("t1", 1)], {7, 8, 3}, "timed out"),
    ],
)
def test_what_any_source_did_not_deliver_is_invalid(answers: list[Outcome], invalid: set[int], cause: str) -> None:
    rank = Rank()
    rank.load(plan=TWO_TO_ONE)
    for answer in answers:
        rank.consumer.on_message(answer)
    assert rank.consumer.take_finished(0.0) == {"r1"}
    assert rank.consumer.take_invalid_blocks() == invalid
    assert rank.failures() == {cause: 1}
    rank.assert_nothing_left()
