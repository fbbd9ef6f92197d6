"""Several ranks of a consumer, slices of heads, lost peers, checksums: one producer's rank with real threads."""

import zlib
from array import array
from typing import Any

import pytest

from connector.control.messages import Cancel, Cancelled, Done, Failed, LayerPlace
from connector.scheduling.steps import Chunk, ProducerStep
from tests.unit.connector.fake_layouts import (
    FULL,
    HEAD,
    HEADS,
    LAYERS,
    NUM_BLOCKS,
    PAGE,
    TARGET,
    Shape,
    block_by_block,
    page_of,
    places,
)
from tests.unit.connector.fakes import LIMIT_S, until
from tests.unit.connector.transfer.producer_rank import HERE, PROMPT, THERE, NewRank, Rank, content


def register_head(rank: Rank, head: int, shares: int = HEADS) -> None:
    """The consumer's rank of the same number wants that head; it is a segment of its own in the transfer engine."""
    layout = block_by_block([FULL], [Shape(0, 1, HEAD, head, HEADS)] * LAYERS)
    rank.register(
        1,
        THERE,
        rank=head,
        reply_to=f"tcp://d-rank{head}:1",
        segments={"tcp": f"rank{head}"},
        shares=shares,
        layers=places(layout),
    )


def assert_head_arrived(rank: Rank, consumer_rank: int, head: int) -> None:
    target = rank.engine.target(f"rank{consumer_rank}")
    for layer in range(LAYERS):
        for number, block in enumerate(THERE):
            start = 7 + layer * HEAD + block * LAYERS * HEAD
            assert target[start : start + HEAD] == content(1, layer, number)[head * HEAD : (head + 1) * HEAD]


def test_two_ranks_each_get_their_heads(new_rank: NewRank) -> None:
    rank = new_rank()
    register_head(rank, 0)
    rank.chunk(1, PROMPT, HERE[:2], 6)
    register_head(rank, 1)
    rank.chunk(1, PROMPT, HERE, 10)
    rank.release(1)
    rank.until_released("r1")
    assert sorted(there for there, message in rank.outbox.sent if isinstance(message, Done)) == [
        "tcp://d-rank0:1",
        "tcp://d-rank1:1",
    ]
    for number in range(HEADS):
        assert_head_arrived(rank, number, number)
    rank.assert_nothing_left()


def test_blocks_are_kept_until_the_last_rank_has_come(new_rank: NewRank) -> None:
    rank = new_rank()
    register_head(rank, 0)
    rank.chunk(1, PROMPT, HERE, 10)
    rank.release(1)
    assert isinstance(rank.outbox.take_next(), Done)
    assert rank.collect() == []
    register_head(rank, 1)
    rank.until_released("r1")
    assert_head_arrived(rank, 1, 1)


def test_a_rank_that_never_comes_is_given_up(new_rank: NewRank) -> None:
    rank = new_rank(patience=0.0)
    register_head(rank, 0)
    rank.chunk(1, PROMPT, HERE, 10)
    assert isinstance(rank.outbox.take_next(), Done)
    rank.release(1)
    until(lambda: rank.tick() and rank.collect() == ["r1"])
    register_head(rank, 1)
    late = rank.outbox.take_next()
    assert isinstance(late, Failed)
    assert late.cause.startswith("no consumer: ")


def test_a_rank_that_needs_no_head_learns_the_end(new_rank: NewRank) -> None:
    rank = new_rank()
    rank.register(1, THERE, layers=[])
    rank.chunk(1, PROMPT, HERE, 10)
    rank.release(1)
    done = rank.outbox.take_next()
    assert isinstance(done, Done)
    assert (done.bytes, done.pieces) == (0, 0)
    rank.until_released("r1")


def test_one_ranks_lost_write_harms_no_other(new_rank: NewRank) -> None:
    rank = new_rank()
    rank.engine.broken.add("rank0")
    register_head(rank, 0)
    register_head(rank, 1)
    rank.chunk(1, PROMPT, HERE, 10)
    rank.release(1)
    rank.until_released("r1")
    answers = {there: type(message) for there, message in rank.outbox.sent}
    assert answers == {"tcp://d-rank0:1": Failed, "tcp://d-rank1:1": Done}
    assert_head_arrived(rank, 1, 1)


def test_a_cancel_ends_every_ranks_share(new_rank: NewRank) -> None:
    rank = new_rank()
    for number in range(HEADS):
        register_head(rank, number)
    rank.producer.on_message(Cancel("t1", "tcp://d-rank0:1"))
    assert rank.outbox.sent == [(f"tcp://d-rank{number}:1", Cancelled("t1", 0)) for number in range(HEADS)]
    rank.chunk(1, PROMPT, HERE, 10)
    rank.release(1)
    rank.until_released("r1")
    assert rank.engine.writes == []


def test_registrations_that_do_not_fit_are_refused(new_rank: NewRank) -> None:
    rank = new_rank()
    wrong: dict[str, dict[str, Any]] = {
        "restarted: ": {"engine_id": "p of yesterday"},
        "no common transport: ": {"segments": {"rdma": "x"}},
        "wrong layout: KV heads 1 to 2 of layer layer1 ": {"layers": [LayerPlace("layer1", 0, PAGE, 1, 2)]},
    }
    for cause, changes in wrong.items():
        rank.register(1, THERE, **changes)
        refused = rank.outbox.take_next()
        assert isinstance(refused, Failed)
        assert refused.cause.startswith(cause)
    register_head(rank, 0)
    register_head(rank, 1, shares=3)
    refused = rank.outbox.take_next()
    assert isinstance(refused, Failed)
    assert refused.cause == "bad registration: 3 shares, another rank said 2"


def test_a_lost_consumer_is_written_to_no_more_and_others_are_served(new_rank: NewRank) -> None:
    rank = new_rank()
    gate = rank.engine.hold("segment1")
    rank.register(1, THERE)
    rank.register(2, [40, 41, 42])
    assert rank.outbox.watched == ["tcp://d1:1", "tcp://d2:1"]
    rank.chunk(1, PROMPT, HERE[:2], 6)
    assert gate.entered.wait(LIMIT_S)
    rank.producer.on_peer_lost("tcp://d1:1", True)
    rank.release(1, complete=False)
    assert rank.collect() == []  # its write is still in flight
    rank.chunk(2, PROMPT, [30, 31, 32], 10)
    rank.release(2)
    assert isinstance(rank.outbox.take_next(), Done)
    rank.until_released("r2")
    rank.assert_arrived(2, [40, 41, 42])
    gate.opened.set()
    rank.until_released("r1", "r2")
    assert [segment for segment, _ in rank.engine.writes].count("segment1") == 1
    assert rank.outbox.answers_to("t1") == []  # nobody is there
    rank.assert_nothing_left()


def test_a_silent_consumer_is_told(new_rank: NewRank) -> None:
    """It may live behind a cut wire, and will ask for nothing else than an answer."""
    rank = new_rank()
    rank.register(1, THERE)
    rank.producer.on_peer_lost("tcp://d1:1", False)
    failed = rank.outbox.take_next()
    assert isinstance(failed, Failed)
    assert failed.cause == "consumer lost: tcp://d1:1 is silent"


def test_the_checksum_is_that_of_the_bytes_that_arrived(new_rank: NewRank) -> None:
    rank = new_rank()
    rank.register(1, THERE, checksum=True)
    rank.chunk(1, PROMPT, HERE[:2], 6)
    rank.chunk(1, PROMPT, HERE, 10)
    done = rank.outbox.take_next()
    assert isinstance(done, Done)
    target = rank.engine.target("segment1")
    layers = [b"".join(page_of(target, TARGET, layer, block) for block in THERE) for layer in range(LAYERS)]
    assert done.checksum == zlib.crc32(array("I", [zlib.crc32(layer) for layer in layers]).tobytes())


def test_a_short_step_is_sent_in_one_piece(new_rank: NewRank) -> None:
    rank = new_rank(min_stream_tokens=6)
    rank.register(1, THERE)
    rank.chunk(1, PROMPT, HERE[:2], 6)
    until(lambda: rank.engine.returned > 0)
    gate = rank.engine.hold("segment1")
    rank.chunk(1, PROMPT, HERE, 10)
    assert gate.entered.wait(LIMIT_S)
    layer_bytes = NUM_BLOCKS * PAGE
    assert {piece.source // layer_bytes for piece in rank.engine.writes[-1][1]} == set(range(LAYERS))
    gate.opened.set()


def test_a_short_step_does_not_wait_for_the_logits(new_rank: NewRank) -> None:
    """It goes with the hook of whichever layer comes last, before the step as a whole is over."""
    rank = new_rank(min_stream_tokens=PROMPT + 1)
    rank.register(1, THERE)
    rank.producer.begin_step(ProducerStep(idle=False, chunks=[Chunk("t1", "r1", PROMPT, (HERE,), PROMPT, PROMPT)]))
    for layer in reversed(range(LAYERS)):
        assert rank.engine.writes == []
        rank.producer.layer_computed(layer)
    assert isinstance(rank.outbox.take_next(), Done)


def test_a_rank_beyond_those_that_were_announced_is_refused(new_rank: NewRank) -> None:
    rank = new_rank()
    rank.register(1, THERE)
    rank.register(1, THERE, rank=1)
    refused = rank.outbox.take_next()
    assert isinstance(refused, Failed)
    assert refused.cause == "bad registration: this transfer is registered already"
    rank.chunk(1, PROMPT, HERE, 10)
    rank.release(1)
    assert isinstance(rank.outbox.take_next(), Done)
    rank.until_released("r1")
    rank.assert_nothing_left()


def test_a_refused_registration_leaves_nothing_behind(new_rank: NewRank) -> None:
    rank = new_rank()
    rank.register(1, THERE, fingerprint="other")
    assert isinstance(rank.outbox.take_next(), Failed)
    rank.assert_nothing_left()


def test_a_write_that_fails_once_is_made_again(new_rank: NewRank) -> None:
    rank = new_rank()
    rank.engine.broken_once.add("segment1")
    rank.register(1, THERE)
    rank.chunk(1, PROMPT, HERE, 10)
    rank.release(1)
    done = rank.outbox.take_next()
    assert isinstance(done, Done)
    assert done.bytes == LAYERS * len(THERE) * PAGE
    rank.assert_arrived(1, THERE)
    rank.until_released("r1")


@pytest.mark.parametrize(("cancelled", "attempts"), [(False, 2), (True, 1)])
def test_a_write_is_made_twice_at_most_and_once_for_a_consumer_that_cancels(
    new_rank: NewRank, cancelled: bool, attempts: int
) -> None:
    rank = new_rank()
    rank.engine.broken.add("segment1")
    gate = rank.engine.hold("segment1")
    rank.register(1, THERE)
    rank.chunk(1, PROMPT, HERE, 10)
    assert gate.entered.wait(LIMIT_S)
    held_back = len(rank.engine.writes)
    if cancelled:
        rank.cancel(1)
    gate.opened.set()
    rank.release(1)
    rank.until_released("r1")
    assert held_back == 1
    assert len(rank.engine.writes) == attempts


def test_behind_pieces_without_an_end_nothing_is_written_again(new_rank: NewRank) -> None:
    rank = new_rank()
    rank.engine.without_end.add("segment1")
    rank.register(1, THERE)
    rank.chunk(1, PROMPT, HERE, 10)
    rank.release(1)
    rank.until_released("r1")
    failed = rank.outbox.take_next()
    assert isinstance(failed, Failed)
    assert failed.cause.startswith("write failed: ")
    assert failed.unended
    assert len(rank.engine.writes) == 1
