"""The consumer's rank with several groups of layers: a request's cache is whole, or of no use."""

import pytest

from connector.cache.heads import Source
from connector.cache.layout import CacheGroup, Kind
from connector.control.messages import Cancelled, Done, Failed, GroupBlocks, Outcome
from connector.mooncake.checksum import checksum_of_registered
from tests.unit.connector.fake_layouts import BLOCK_TOKENS, MIXED_SHAPES, MIXED_TARGET, Shape, block_by_block, places
from tests.unit.connector.fakes import ArrayMemory
from tests.unit.connector.transfer.consumer.consumer_rank import BLOCKS, DONE, Rank

# Of the attention that is split both ranks of the producer have a head; the first has the rest.
TWO_TO_ONE = [[Source(0, {1: range(1), 2: range(1)}, 1), Source(1, {2: range(1, 2)}, 1)]]
GROUPS = [GroupBlocks(0, BLOCKS), GroupBlocks(1, [20]), GroupBlocks(0, [30])]
FAILURES: list[Outcome] = [Failed("t1", 0, 0, "aborted: x"), Failed("t1", 0, 3, "write failed: x"), Cancelled("t1", 0)]


@pytest.mark.parametrize("early", [True, False], ids=["answered before the load was known", "answered after"])
@pytest.mark.parametrize("failure", FAILURES, ids=["0 delivered", "all delivered", "cancelled"])
def test_a_failed_request_is_lost_as_a_whole(failure: Outcome, early: bool) -> None:
    """vLLM can name lost blocks only where it has one group, and a window or a state is of use only at the end."""
    rank = Rank(layout=MIXED_TARGET)
    if early:
        rank.consumer.on_message(failure)
    rank.load(plan=TWO_TO_ONE, groups=GROUPS)
    if not early:
        rank.consumer.on_message(failure)
    rank.consumer.on_message(Done("t1", 1, 96, 32, 3, 0.5, 0.1, "tcp"))
    assert rank.consumer.take_failed() == set(), "vLLM is told of both at once"
    assert rank.consumer.take_finished(0.0) == {"r1"}
    assert rank.consumer.take_failed() == {"r1"}
    assert rank.consumer.take_invalid_blocks() == set()
    assert sum(rank.failures().values()) == 1
    rank.assert_nothing_left()


@pytest.mark.parametrize("kind", [Kind.WINDOW, Kind.CHUNK, Kind.STATE])
def test_so_it_is_with_one_group_that_is_no_full_attention(kind: Kind) -> None:
    rank = Rank(layout=block_by_block([CacheGroup(kind, BLOCK_TOKENS)], [Shape(0)]))
    rank.load()
    rank.consumer.on_message(Failed("t1", 0, 2, "aborted: x"))
    assert rank.consumer.take_finished(0.0) == {"r1"}
    assert rank.consumer.take_failed() == {"r1"}
    assert rank.consumer.take_invalid_blocks() == set()
    rank.assert_nothing_left()


def test_what_arrived_whole_is_no_failure() -> None:
    rank = Rank(layout=MIXED_TARGET)
    rank.load(plan=TWO_TO_ONE, groups=GROUPS)
    rank.consumer.on_message(DONE)
    rank.consumer.on_message(Done("t1", 1, 4, 2, 1, 0.7, 0.0, "tcp"))
    assert rank.consumer.take_finished(0.0) == {"r1"}
    assert rank.consumer.take_failed() == set()
    assert rank.consumer.take_done() == {"r1": Done("t1", 0, 100, 34, 4, 0.7, 0.1, "tcp")}
    rank.assert_nothing_left()


def test_an_aborted_request_has_not_failed() -> None:
    rank = Rank(layout=MIXED_TARGET)
    rank.load(plan=TWO_TO_ONE, groups=GROUPS)
    rank.abort()
    for number in range(2):
        rank.consumer.on_message(Cancelled("t1", number))
    assert rank.consumer.take_finished(0.0) == {"r1"}
    assert rank.consumer.take_failed() == set()
    assert rank.failures() == {}
    rank.assert_nothing_left()


@pytest.mark.parametrize("layer", range(len(MIXED_SHAPES)))
@pytest.mark.parametrize("flipped", [True, False])
def test_a_checksum_covers_every_group(layer: int, flipped: bool) -> None:
    rank = Rank(layout=MIXED_TARGET)
    whole = [[Source(0, {1: range(1), 2: range(2)}, 1)]]
    asked = rank.new_load(plan=whole, groups=GROUPS).registrations[0][0]
    assert asked.layers == places(MIXED_TARGET)
    proof = checksum_of_registered(ArrayMemory(rank.memory), MIXED_TARGET, asked)
    if flipped:
        own = MIXED_TARGET.layers[layer]
        rank.memory[own.address + GROUPS[own.group].block_ids[-1] * own.block_stride + own.page - 1] ^= 1
    rank.load(plan=whole, groups=GROUPS)
    rank.consumer.on_message(Done("t1", 0, 96, 32, 3, 0.5, 0.1, "tcp", proof))
    assert rank.consumer.take_finished(0.0) == {"r1"}
    assert rank.consumer.take_failed() == ({"r1"} if flipped else set())
    assert rank.failures() == ({"checksum": 1} if flipped else {})
