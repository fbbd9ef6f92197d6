"""The consumer's rank behind producers that end, fall silent and come back, writes without an end, and wrong bytes."""

import msgspec
import pytest

from connector.control.messages import Cancel, Cancelled, Done, Failed, Mended, Outcome
from connector.mooncake.checksum import checksum_of_registered
from tests.unit.connector.fake_layouts import LAYERS, PAGE, TARGET, fill_page
from tests.unit.connector.fakes import ArrayMemory, until
from tests.unit.connector.transfer.consumer.consumer_rank import BLOCKS, DONE, PRODUCERS, TWO_TO_ONE, Rank


def test_a_producer_that_has_ended_fails_its_transfers_and_no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("connector.transfer.consumer.LAST_BYTES_S", 0.0)
    rank = Rank()
    rank.load(1)
    rank.load(2, plan=TWO_TO_ONE)
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
        rank.load(number, plan=TWO_TO_ONE)
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
            fill_page(rank.memory, TARGET, layer, block, bytes([layer, block] * (PAGE // 2)))
    asked = rank.new_load().registrations[0][0]
    right = checksum_of_registered(ArrayMemory(rank.memory), TARGET, asked)
    if flipped:
        rank.memory[asked.layers[1].address + BLOCKS[2] * asked.layers[1].block_stride] ^= 1
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
    rank.load(plan=TWO_TO_ONE)
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
