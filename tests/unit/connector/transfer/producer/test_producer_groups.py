"""The producer's rank with several groups of layers: what arrives, and when layers without a hook are sent."""

from functools import partial
from typing import Any

import pytest

from connector.control.messages import Done, Failed, GroupBlocks, Register
from connector.mooncake.checksum import checksum_of_registered
from tests.unit.connector.fake_layouts import MIXED_SOURCE, MIXED_TARGET
from tests.unit.connector.fakes import ArrayMemory, until
from tests.unit.connector.transfer.producer_rank import NewRank, Rank

TOKENS = 30
# Blocks of 4, 8 and 16 tokens: a window of 12 tokens, and a state. Their blocks have numbers of their own.
GROUPS = [GroupBlocks(1, [41, 42, 3, 44, 45, 46, 47]), GroupBlocks(2, [9, 8]), GroupBlocks(1, [30])]
FIRST = ([1, 2, 3, 4], [5, 6], [20])
LAST = ([1, 2, 3, 4, 11, 12, 13, 14], [0, 0, 17, 18], [0, 21])  # what is below the window is freed


@pytest.fixture
def rank(new_rank: NewRank) -> Rank:
    return new_rank(layouts=(MIXED_SOURCE, MIXED_TARGET))


def register(rank: Rank, groups: list[GroupBlocks] = GROUPS, **changes: Any) -> Register:
    return rank.register(1, [], tokens=TOKENS, groups=groups, **changes)


@pytest.mark.parametrize("before", [0, 1, 2], ids=["registered first", "between the chunks", "last"])
def test_every_group_arrives_in_its_blocks(rank: Rank, before: int) -> None:
    chunks = [partial(rank.chunk, 1, TOKENS, FIRST, 14), partial(rank.chunk, 1, TOKENS, LAST, TOKENS)]
    for chunk in chunks[:before]:
        chunk()
    registration = register(rank, checksum=True)
    for chunk in chunks[before:]:
        chunk()
    rank.release(1)
    done = rank.outbox.take_next()
    assert isinstance(done, Done)
    assert done.bytes == 2 * 7 * 8 + 2 * 12 + 20
    rank.assert_groups_arrived(1, GROUPS, TOKENS)
    arrived = ArrayMemory(rank.engine.target("segment1"))
    assert done.checksum == checksum_of_registered(arrived, MIXED_TARGET, registration)
    rank.until_released("r1")
    rank.assert_nothing_left()


def test_a_preempted_prompt_is_sent_from_its_new_blocks(rank: Rank) -> None:
    register(rank)
    rank.chunk(1, TOKENS, FIRST, 14)
    until(lambda: rank.engine.returned > 0 and not rank.producer._transfers._under_way["t1"].shares[0].state.has_work())
    rank.preempt("r1")
    rank.chunk(1, TOKENS, ([51, 52, 53, 54, 55, 56, 57, 58], [0, 0, 37, 38], [0, 33]), TOKENS)
    rank.release(1)
    assert isinstance(rank.outbox.take_next(), Done)
    rank.assert_groups_arrived(1, GROUPS, TOKENS)
    rank.until_released("r1")


def test_a_window_that_the_consumer_wants_and_the_producer_has_freed(rank: Rank) -> None:
    """Two vLLMs with other settings could disagree on what a window needs: the consumer is told at once."""
    register(rank, [GROUPS[0], GroupBlocks(1, [7, 9, 8]), GROUPS[2]])
    rank.chunk(1, TOKENS, FIRST, 14)
    rank.chunk(1, TOKENS, LAST, TOKENS)
    failed = rank.outbox.take_next()
    assert isinstance(failed, Failed)
    assert failed.cause == "not kept: positions 1 to 3 of layer1 hold no block here"
    assert not failed.unended
    rank.release(1)
    rank.until_released("r1")
    rank.assert_nothing_left()
    taken = rank.stats.take()
    assert taken is not None
    assert ["failed_shares", "not kept", "tcp", 1] in taken["counted"]


def test_a_share_without_layers_is_done_when_the_prompt_is_complete(rank: Rank) -> None:
    register(rank, layers=[])
    rank.chunk(1, TOKENS, FIRST, 14)
    assert rank.outbox.sent == []
    rank.chunk(1, TOKENS, LAST, TOKENS)
    done = rank.outbox.take_next()
    assert isinstance(done, Done)
    assert (done.bytes, done.pieces) == (0, 0)
    rank.release(1)
    rank.until_released("r1")
    assert rank.engine.writes == []


class Steps:
    """Two steps of a prompt whose layers have a hook each, but for the state's."""

    def __init__(self, rank: Rank) -> None:
        self._rank = rank

    def begin(self, tables: tuple[list[int], ...], end: int) -> None:
        self._rank.begin_chunk(1, TOKENS, tables, end)
        for layer in range(len(MIXED_SOURCE.layers)):
            self._rank.compute(1, tables, end, layer)

    def hook(self, *layers: int) -> list[int]:
        """Tokens that are known to be in memory, by layer, after the hooks of these."""
        for layer in layers:
            self._rank.producer.layer_computed(layer)
        return self.known

    def end(self) -> list[int]:
        self._rank.producer.step_computed()
        return self.known

    @property
    def known(self) -> list[int]:
        return list(self._rank.producer._transfers._under_way["t1"].prompt._computed)


def short_steps(new_rank: NewRank) -> Steps:
    """Of too few tokens to go layer by layer."""
    return Steps(new_rank(layouts=(MIXED_SOURCE, MIXED_TARGET), min_stream_tokens=TOKENS + 1))


def test_in_a_short_step_hooked_layers_go_at_the_last_hook_of_the_step_before(new_rank: NewRank) -> None:
    steps = short_steps(new_rank)
    steps.begin(FIRST, 14)
    assert steps.hook(0, 1, 3) == [0, 0, 0, 0], "nobody knows yet that this is the last"
    assert steps.end() == [14, 14, 14, 14]
    steps.begin(LAST, TOKENS)
    assert steps.hook(0, 1) == [14, 14, 14, 14]
    assert steps.hook(3) == [TOKENS, TOKENS, 14, TOKENS], "rather than after the sampling"
    assert steps.end() == [TOKENS] * 4


def test_a_layer_whose_hook_comes_later_than_in_the_step_before_goes_at_the_step_s_end(new_rank: NewRank) -> None:
    steps = short_steps(new_rank)
    steps.begin(FIRST, 14)
    steps.hook(0, 3, 1)
    steps.end()
    steps.begin(LAST, TOKENS)
    assert steps.hook(0, 1) == [TOKENS, TOKENS, 14, 14]
    assert steps.hook(3) == [TOKENS, TOKENS, 14, 14]
    assert steps.end() == [TOKENS] * 4


def test_in_a_short_step_the_hook_of_the_last_of_all_layers_is_enough(new_rank: NewRank) -> None:
    steps = short_steps(new_rank)
    steps.begin(LAST, TOKENS)
    assert steps.hook(0, 1, 3) == [0] * 4
    assert steps.hook(2) == [TOKENS] * 4


def test_in_a_long_step_each_hooked_layer_goes_at_once_and_the_rest_at_its_end(rank: Rank) -> None:
    steps = Steps(rank)
    steps.begin(LAST, TOKENS)
    assert steps.hook(1) == [0, TOKENS, 0, 0]
    assert steps.hook(0, 3) == [TOKENS, TOKENS, 0, TOKENS]
    assert steps.end() == [TOKENS] * 4


def test_a_step_without_any_hook_is_sent_at_its_end(new_rank: NewRank) -> None:
    """As with a full CUDA graph."""
    steps = short_steps(new_rank)
    steps.begin(FIRST, 14)
    steps.hook(0, 1, 3)
    steps.end()
    steps.begin(LAST, TOKENS)
    assert steps.end() == [TOKENS] * 4
