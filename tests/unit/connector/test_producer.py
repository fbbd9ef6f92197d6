"""The producer's rank with real sender threads: what arrives, what is answered, and that every request is released."""

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from connector.messages import Cancel, Cancelled, Done, Failed, Register
from connector.producer import Producer
from connector.stats import TransferStats
from connector.steps import Chunk, ProducerStep, Released
from tests.unit.connector.fakes import (
    BLOCK_TOKENS,
    LAYERS,
    LIMIT_S,
    SOURCE,
    TARGET,
    FakeEngine,
    ImmediateFences,
    LateFences,
    Outbox,
    fill_page,
    page_of,
    until,
)

LONG_S = 3600.0


class Rank:
    """A producer that computes content which tells transfer, layer and block of the prompt."""

    def __init__(
        self, patience: float = LONG_S, senders: int = 2, fences: ImmediateFences | LateFences | None = None
    ) -> None:
        self.engine = FakeEngine()
        self.outbox = Outbox()
        self.stats = TransferStats()
        self.finished: list[str] = []
        self._ends: dict[str, int] = {}
        self.producer = Producer(
            engine=self.engine,
            layout=SOURCE,
            block_size=BLOCK_TOKENS,
            fingerprint="same",
            transport="tcp",
            send=self.outbox.send,
            fences=fences or ImmediateFences(),
            patience=patience,
            sender_threads=senders,
            stats=self.stats,
        )

    def chunk(self, number: int, prompt_tokens: int, block_ids: list[int], end: int, request: str = "") -> None:
        """One step that computes one chunk, layer by layer."""
        part = Chunk(f"t{number}", request or f"r{number}", prompt_tokens, block_ids, end)
        self.producer.begin_step(ProducerStep(idle=False, chunks=[part]))
        for layer in range(LAYERS):
            for block in range(-(-end // BLOCK_TOKENS)):
                fill_page(self.engine.source, SOURCE, layer, block_ids[block], content(number, layer, block))
            self.producer.layer_computed(layer)
        self.producer.step_computed()

    def release(self, number: int, request: str = "", complete: bool = True) -> None:
        released = Released(f"t{number}", request or f"r{number}", complete)
        self.producer.begin_step(ProducerStep(idle=True, released=[released]))

    def preempt(self, *requests: str) -> None:
        """As vLLM does: the next step may overwrite the blocks."""
        self.producer.rewrite_blocks_of(list(requests))
        self.producer.begin_step(ProducerStep(idle=False, preempted=list(requests)))

    def register(self, number: int, blocks: list[int], first_block: int = 0, **changes: Any) -> Register:
        fields: dict[str, Any] = {
            "transfer_id": f"t{number}",
            "fingerprint": "same",
            "reply_to": f"tcp://d{number}:1",
            "segment": f"segment{number}",
            "layer_addresses": list(TARGET.layer_addresses),
            "block_stride": TARGET.block_stride,
            "first_block": first_block,
            "block_ids": blocks,
        }
        registration = Register(**(fields | changes))
        self.producer.on_message(registration)
        return registration

    def cancel(self, number: int) -> None:
        self.producer.on_message(Cancel(f"t{number}", f"tcp://d{number}:1"))

    def tick(self) -> bool:
        self.producer.on_tick()
        return True

    def collect(self) -> list[str]:
        self.finished += self.producer.take_finished(0.0)
        return self.finished

    def until_released(self, *requests: str) -> None:
        """Every one of these requests, each once, and no other."""
        until(lambda: len(self.collect()) >= len(requests))
        assert sorted(self.finished) == sorted(requests)

    def assert_arrived(self, number: int, blocks: list[int], first_block: int = 0) -> None:
        target = self.engine.target(f"segment{number}")
        for layer in range(LAYERS):
            for offset, block in enumerate(blocks):
                expected = content(number, layer, first_block + offset)
                assert page_of(target, TARGET, layer, block) == expected, (layer, offset)

    def assert_nothing_left(self) -> None:
        assert not self.producer._transfers
        assert not self.producer._queue
        assert self.producer.blocks_held == 0
        assert self.producer.take_finished(0.0) == set()


def content(number: int, layer: int, block: int) -> bytes:
    return bytes([number, layer, block, 0xAA, block, layer, number, 0x55])


@pytest.fixture
def new_rank() -> Iterator[Callable[..., Rank]]:
    ranks: list[Rank] = []

    def make(**arguments: Any) -> Rank:
        ranks.append(Rank(**arguments))
        return ranks[-1]

    yield make
    for rank in ranks:
        for gate in rank.engine.gates.values():
            gate.opened.set()
        rank.producer.close()
        assert not any(sender.is_alive() for sender in rank.producer._senders)


NewRank = Callable[..., Rank]
PROMPT, HERE, THERE = 10, [20, 21, 5], [9, 10, 3]


def consumer_first(rank: Rank) -> None:
    rank.register(1, THERE)
    rank.chunk(1, PROMPT, HERE[:2], 6)
    rank.chunk(1, PROMPT, HERE, 10)
    rank.release(1)


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
    assert rank.producer.blocks_held == 3
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
    assert (done.transfer_id, done.bytes, done.transport) == ("t1", LAYERS * 3 * SOURCE.page, "tcp")
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
    until(lambda: rank.engine.returned > 0 and not rank.producer._transfers["t1"].state.has_work())
    until(lambda: rank.producer._transfers["t1"].bytes == 2 * LAYERS * SOURCE.page)
    rank.chunk(1, PROMPT, HERE, 10)
    done = rank.outbox.take_next()
    assert isinstance(done, Done)
    assert done.early_bytes >= 2 * LAYERS * SOURCE.page


def test_only_blocks_from_the_consumers_own_prefix_on_are_sent(new_rank: NewRank) -> None:
    rank = new_rank()
    rank.register(1, [30], first_block=2)
    rank.chunk(1, PROMPT, HERE, 10)
    done = rank.outbox.take_next()
    assert isinstance(done, Done)
    assert done.bytes == LAYERS * SOURCE.page
    rank.assert_arrived(1, [30], first_block=2)


def test_on_a_gpu_nothing_is_sent_before_the_fence(new_rank: NewRank) -> None:
    fences = LateFences()
    rank = new_rank(fences=fences)
    rank.register(1, THERE)
    rank.chunk(1, PROMPT, HERE, 10)
    rank.release(1)
    assert not rank.producer._transfers["t1"].state.has_work()
    assert rank.engine.writes == []
    fences.drain()
    assert isinstance(rank.outbox.take_next(), Done)
    rank.until_released("r1")


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
    assert rank.outbox.take_next() == Cancelled("t1")
    writes = len(rank.engine.writes)
    assert rank.engine.returned == writes
    rank.chunk(1, PROMPT, HERE, 10)
    rank.release(1)
    rank.until_released("r1")
    assert len(rank.engine.writes) == writes
    assert rank.outbox.answers_to("t1") == [Cancelled("t1")]
    rank.assert_nothing_left()


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
    assert rank.outbox.take_next() == Cancelled("t1")
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
    assert rank.outbox.take_next() == Cancelled("t1")


def test_a_cancel_between_the_answer_and_the_release_is_answered(new_rank: NewRank) -> None:
    rank = new_rank()
    rank.register(1, THERE)
    rank.chunk(1, PROMPT, HERE, 10)
    assert isinstance(rank.outbox.take_next(), Done)
    rank.cancel(1)
    assert rank.outbox.take_next() == Cancelled("t1")
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


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({"fingerprint": "other"}, "wrong layout"),
        ({"layer_addresses": [0]}, "wrong layout"),
        ({"block_ids": []}, "bad registration"),
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


def test_a_wrong_number_of_blocks_is_told_as_soon_as_the_prompt_is_known(new_rank: NewRank) -> None:
    rank = new_rank()
    rank.register(1, THERE[:2])
    rank.chunk(1, PROMPT, HERE[:1], 3)
    failed = rank.outbox.take_next()
    assert isinstance(failed, Failed)
    assert failed.cause.startswith("wrong prompt: ")
    rank.chunk(1, PROMPT, HERE, 10)
    rank.release(1)
    rank.until_released("r1")
    assert rank.engine.writes == []
    rank.assert_nothing_left()


def test_a_second_consumer_is_refused_while_the_first_is_served(new_rank: NewRank) -> None:
    rank = new_rank()
    rank.register(1, THERE)
    rank.register(1, THERE, reply_to="tcp://stranger:1", segment="segment9")
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


def test_a_lost_write_ends_the_transfer_with_what_had_arrived(new_rank: NewRank) -> None:
    rank = new_rank()
    rank.register(1, THERE)
    rank.chunk(1, PROMPT, HERE[:1], 4)
    until(lambda: rank.producer._transfers["t1"].state.delivered_blocks == 1)
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


def test_a_preemption_waits_for_the_write_under_way_and_then_starts_over(new_rank: NewRank) -> None:
    rank = new_rank()
    gate = rank.engine.hold("segment1")
    rank.register(1, THERE)
    rank.chunk(1, PROMPT, HERE[:2], 6)
    assert gate.entered.wait(LIMIT_S)
    drained = threading.Event()

    def preempt() -> None:
        rank.preempt("r1")
        drained.set()

    vllm = threading.Thread(target=preempt, daemon=True)
    vllm.start()
    until(lambda: rank.producer._transfers["t1"].state.block_ids == [])
    assert not drained.is_set()
    gate.opened.set()
    assert drained.wait(LIMIT_S)
    vllm.join()
    assert rank.engine.returned == len(rank.engine.writes)
    for layer in range(LAYERS):
        for block in HERE:
            fill_page(rank.engine.source, SOURCE, layer, block, b"\xff" * SOURCE.page)  # another request's now
    rank.chunk(1, PROMPT, [40, 41, 42], 10)
    assert isinstance(rank.outbox.take_next(), Done)
    rank.assert_arrived(1, THERE)
    rank.release(1)
    rank.until_released("r1")


def test_what_the_gpu_had_still_to_finish_before_a_preemption_says_nothing_of_the_new_blocks(
    new_rank: NewRank,
) -> None:
    fences = LateFences()
    rank = new_rank(fences=fences)
    rank.chunk(1, PROMPT, HERE[:2], 8)
    rank.preempt("r1")
    rank.register(1, THERE)
    rank.chunk(1, PROMPT, [40, 41, 42], 4)
    fences.drain()
    assert rank.producer._transfers["t1"].state._computed == [4, 4]
    rank.chunk(1, PROMPT, [40, 41, 42], 10)
    fences.drain()
    assert isinstance(rank.outbox.take_next(), Done)
    rank.assert_arrived(1, THERE)


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


def test_a_request_preempted_and_aborted_before_the_next_step_is_waited_for(new_rank: NewRank) -> None:
    """vLLM preempts outside of a step too (reset_prefix_cache); its blocks are free although the request was held."""
    rank = new_rank()
    gate = rank.engine.hold("segment1")
    rank.register(1, THERE)
    rank.chunk(1, PROMPT, HERE[:2], 6)
    assert gate.entered.wait(LIMIT_S)
    step = ProducerStep(idle=False, preempted=["r1"], released=[Released("t1", "r1", complete=False)])
    drained = threading.Event()

    def next_step() -> None:
        rank.producer.rewrite_blocks_of(step.preempted)
        drained.set()
        rank.producer.begin_step(step)

    vllm = threading.Thread(target=next_step, daemon=True)
    vllm.start()
    until(lambda: rank.producer._transfers["t1"].state.block_ids == [])
    assert not drained.is_set()
    gate.opened.set()
    vllm.join(LIMIT_S)
    assert isinstance(rank.outbox.take_next(), Failed)
    rank.until_released("r1")
    rank.assert_nothing_left()


def test_others_go_on_while_one_consumer_does_not_take_its_bytes(new_rank: NewRank) -> None:
    rank = new_rank(senders=2)
    gate = rank.engine.hold("segment1")
    rank.register(1, [1])
    rank.chunk(1, 4, [1], 4)
    assert gate.entered.wait(LIMIT_S)
    for number in range(2, 8):
        rank.register(number, [number])
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
    used = {piece.source // SOURCE.page % SOURCE.num_blocks for _, pieces in rank.engine.writes for piece in pieces}
    assert not used & {50, 51, 52}
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
    rank.producer.on_message(Cancelled("t1"))
    assert "ignored a Cancelled" in caplog.text
    rank.assert_nothing_left()


def test_ended_transfers_are_remembered_within_bounds(new_rank: NewRank, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("connector.producer.REMEMBERED_ENDS", 3)
    rank = new_rank()
    for number in range(10):
        rank.cancel(number)
    assert list(rank.producer._ended) == ["t7", "t8", "t9"]
    rank.assert_nothing_left()


def test_failures_are_counted_by_kind(new_rank: NewRank) -> None:
    rank = new_rank()
    rank.register(1, THERE, fingerprint="other")
    rank.cancel(2)
    rank.release(3, complete=False)
    taken = rank.stats.take()
    assert taken is not None
    assert taken["failures"] == {"wrong layout": 1, "cancelled": 1, "aborted": 1}
