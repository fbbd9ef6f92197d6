"""The consumer's rank: every request that waits is reported once, with exactly the blocks that did not arrive."""

import threading

import msgspec
import pytest

from connector.cache.heads import Source, sources
from connector.control.messages import Cancel, Cancelled, Done, Failed, Mended, Outcome, Register
from connector.mooncake.checksum import checksum_of_blocks
from connector.telling.stats import TransferStats
from connector.transfer.consumer import Consumer
from connector.transfer.steps import ConsumerStep, Load
from tests.unit.connector.fakes import (
    BLOCK_TOKENS,
    LAYERS,
    LIMIT_S,
    MEMORY_BYTES,
    TARGET,
    Access,
    ArrayMemory,
    Outbox,
    fill_page,
    registrations,
    until,
)

LONG_S = 3600.0
BLOCKS = [7, 8, 3]
PRODUCERS = ["tcp://p-rank0:1", "tcp://p-rank1:1"]
ONE_TO_ONE = sources(2, 2, 2)
TWO_TO_ONE = sources(1, 2, 2)
DONE = Done("t1", 0, 96, 32, 3, 0.5, 0.1, "tcp")


class Rank:
    def __init__(self, timeout: float = LONG_S, cancel_timeout: float = LONG_S, rank: int = 0) -> None:
        self.outbox = Outbox()
        self.stats = TransferStats()
        self.memory = bytearray(MEMORY_BYTES)
        self.watched: list[str] = []
        self.access = Access()
        self.segments = dict(self.access.segments)
        self.consumer = Consumer(
            rank=rank,
            block_tokens=BLOCK_TOKENS,
            layout=TARGET,
            memory=ArrayMemory(self.memory),
            address="tcp://d:1",
            send=self.outbox.send,
            watch=self.watched.append,
            timeout=timeout,
            cancel_timeout=cancel_timeout,
            revoked=self.access.over,
            stats=self.stats,
        )

    def load(self, number: int = 1, sources: list[list[Source]] = ONE_TO_ONE) -> None:
        self.consumer.begin_step(ConsumerStep(idle=True, loads=[self.new_load(number, sources)]))

    def new_load(self, number: int = 1, sources: list[list[Source]] = ONE_TO_ONE) -> Load:
        asked = registrations(f"t{number}", BLOCKS, sources, self.segments)
        return Load(f"t{number}", f"r{number}", BLOCKS, PRODUCERS, sources, asked)

    def abort(self, number: int = 1) -> None:
        self.consumer.begin_step(ConsumerStep(idle=True, aborted=[f"t{number}"]))

    def tick(self) -> bool:
        self.consumer.on_tick()
        return True

    def revoked(self) -> set[str]:
        """What was asked for, which is done now."""
        asked = self.access.asked
        self.access.revoke()
        self.consumer.on_tick()
        return asked

    def failures(self) -> dict[str, int]:
        taken = self.stats.take()
        rows = taken["counted"] if taken is not None else []
        return {cause: number for name, cause, *_, number in rows if name == "failed_shares"}

    def assert_nothing_left(self) -> None:
        assert not self.consumer._waiting
        assert not self.consumer._outcomes
        assert self.consumer.take_finished(0.0) == set()
        assert self.consumer.take_invalid_blocks() == set()
        assert self.consumer.take_done() == {}


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
    rank.consumer.on_message(Register("t1", "p", "f", "d", 0, 1, {}, "", [], 0, 0, 0, 0, []))
    assert "ignored a Cancel" in caplog.text
    assert "ignored a Register" in caplog.text
    rank.assert_nothing_left()


def test_a_transfer_ends_with_the_last_of_its_sources() -> None:
    rank = Rank()
    rank.load(sources=TWO_TO_ONE)
    assert rank.watched == PRODUCERS
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
    rank.load(sources=TWO_TO_ONE)
    for answer in answers:
        rank.consumer.on_message(answer)
    assert rank.consumer.take_finished(0.0) == {"r1"}
    assert rank.consumer.take_invalid_blocks() == invalid
    assert rank.failures() == {cause: 1}
    rank.assert_nothing_left()


def test_a_producer_that_has_ended_fails_its_transfers_and_no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("connector.transfer.consumer.LAST_BYTES_S", 0.0)
    rank = Rank()
    rank.load(1)
    rank.load(2, sources=TWO_TO_ONE)
    rank.consumer.on_peer_lost(PRODUCERS[1], True)
    until(lambda: rank.tick() and bool(rank.consumer._waiting["t2"].answers))
    rank.consumer.on_message(Done("t2", 0, 96, 32, 3, 0.5, 0.1, "tcp"))
    rank.consumer.on_tick()
    assert rank.consumer.take_finished(0.0) == set(), "its kernel may still send"
    assert rank.revoked() == {"tcp"}
    assert rank.consumer.take_finished(0.0) == {"r2"}
    assert rank.failures() == {"producer lost": 1}
    rank.consumer.on_message(DONE)
    assert rank.consumer.take_finished(0.0) == {"r1"}
    assert rank.outbox.sent == []  # there is nobody to cancel


def test_what_a_dead_producer_had_sent_is_waited_for() -> None:
    rank = Rank()
    rank.load()
    rank.consumer.on_peer_lost(PRODUCERS[0], True)
    rank.consumer.on_tick()
    assert rank.consumer.take_finished(0.0) == set()


def test_a_silent_producer_is_waited_for_and_then_given_up() -> None:
    rank = Rank(cancel_timeout=0.0)
    rank.load()
    for _ in range(2):
        rank.consumer.on_peer_lost(PRODUCERS[0], False)
    assert rank.outbox.sent == []
    until(lambda: rank.tick() and rank.access.asked == {"rdma", "tcp"})
    assert rank.outbox.sent == [(PRODUCERS[0], Cancel("t1", "tcp://d:1"))], "should it come back"
    assert rank.consumer.take_finished(0.0) == set(), "it may still write"
    rank.revoked()
    assert rank.consumer.take_finished(0.0) == {"r1"}
    assert rank.failures() == {"timed out": 1}


@pytest.mark.parametrize("told", [True, False], ids=["the producer says so", "our own connection tells"])
def test_a_producer_that_is_back_is_asked_again_for_what_is_still_awaited(told: bool) -> None:
    rank = Rank(cancel_timeout=0.0)
    for number in (1, 2, 3):
        rank.load(number, sources=TWO_TO_ONE)
    rank.abort(2)
    rank.consumer.on_message(Failed("t3", 0, 0, "aborted: x"))
    sent = len(rank.outbox.sent)
    rank.consumer.on_peer_lost(PRODUCERS[0], False)
    if told:
        rank.consumer.on_message(Mended(PRODUCERS[0]))
    else:
        rank.consumer.on_peer_back(PRODUCERS[0])
    asked = rank.new_load(1, TWO_TO_ONE).registrations[0][0]
    assert rank.outbox.sent[sent:] == [(PRODUCERS[0], asked), (PRODUCERS[0], Cancel("t2", "tcp://d:1"))]
    rank.consumer.on_tick()
    assert rank.consumer._waiting["t1"].missing.keys() == {0, 1}, "it is waited for as before"


@pytest.mark.parametrize("answer", [Failed("t1", 0, 1, "write failed: x", True), Cancelled("t1", 0, True)])
def test_behind_a_write_without_an_end_the_blocks_are_free_once_nobody_can_write(answer: Outcome) -> None:
    rank = Rank()
    rank.load(1)
    rank.load(2)
    rank.consumer.on_message(answer)
    assert rank.consumer.take_finished(0.0) == set()
    assert rank.revoked() == {"rdma", "tcp"}
    assert rank.consumer.take_finished(0.0) == {"r1"}
    # What was registered before that cannot be written to any more either.
    rank.consumer.on_message(msgspec.structs.replace(answer, transfer_id="t2"))
    assert rank.consumer.take_finished(0.0) == {"r2"}
    assert rank.access.asked == set()


@pytest.mark.parametrize("flipped", [False, True])
@pytest.mark.parametrize("early", [False, True])
def test_a_checksum_that_does_not_hold_makes_every_block_invalid(flipped: bool, early: bool) -> None:
    rank = Rank()
    for layer in range(LAYERS):
        for block in BLOCKS:
            fill_page(rank.memory, TARGET, layer, block, bytes([layer, block] * (TARGET.page // 2)))
    ours = ONE_TO_ONE[0][0]
    right = checksum_of_blocks(ArrayMemory(rank.memory), TARGET, BLOCKS, ours.first_head, ours.heads)
    if flipped:
        rank.memory[TARGET.address(1, BLOCKS[2], ours.first_head)] ^= 1
    done = Done("t1", 0, 96, 32, 3, 0.5, 0.1, "tcp", right)
    if early:
        rank.consumer.on_message(done)
        rank.load()
    else:
        rank.load()
        rank.consumer.on_message(done)
    assert rank.consumer.take_finished(0.0) == {"r1"}
    assert rank.consumer.take_invalid_blocks() == (set(BLOCKS) if flipped else set())
    assert rank.failures() == ({"checksum": 1} if flipped else {})


def test_an_answer_that_cannot_be_proven_has_not_come(monkeypatch: pytest.MonkeyPatch) -> None:
    """The other rank's answer must not stand for both; the transfer ends by its deadline."""

    def read(memory: ArrayMemory, address: int, length: int) -> memoryview:
        raise RuntimeError("CUDA error: out of memory")

    monkeypatch.setattr(ArrayMemory, "read", read)
    rank = Rank(timeout=0.0, cancel_timeout=0.0)
    rank.load(sources=TWO_TO_ONE)
    with pytest.raises(RuntimeError, match="CUDA"):
        rank.consumer.on_message(msgspec.structs.replace(DONE, checksum=1))
    rank.consumer.on_message(msgspec.structs.replace(DONE, rank=1))
    assert rank.consumer.take_finished(0.0) == set()
    until(lambda: rank.tick() and bool(rank.access.asked))
    rank.revoked()
    assert rank.consumer.take_finished(0.0) == {"r1"}
    assert rank.consumer.take_invalid_blocks() == set(BLOCKS)
    assert rank.consumer.take_done() == {}
    rank.assert_nothing_left()
