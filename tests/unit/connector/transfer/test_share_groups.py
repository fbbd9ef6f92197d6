"""A share of several groups of layers: each has positions of its own, and of a window or a state only the end moves."""

import pytest

from connector.control.messages import GroupBlocks, LayerPlace
from connector.transfer.share import End, Run
from tests.unit.connector.fake_layouts import (
    CHUNK,
    FULL,
    MIXED_SOURCE,
    MIXED_TARGET,
    Shape,
    block_by_block,
    layer_by_layer,
    places,
)
from tests.unit.connector.transfer.one_share import Transfer, blocks, registration

# MIXED: full attention (4 tokens a block) in layers 0 and 3, a window (8) in 1, a state (16) in 2.
MIXED_BLOCKS = [GroupBlocks(0, [10, 11, 12, 13, 14, 15, 16, 17]), GroupBlocks(2, [20, 21]), GroupBlocks(1, [30])]
TABLES = ([1, 2, 3, 4, 5, 6, 7, 8], [0, 0, 7, 8], [0, 9])


def mixed(groups: list[GroupBlocks] = MIXED_BLOCKS, tokens: int = 30) -> Transfer:
    state = Transfer(MIXED_SOURCE)
    state.register(registration(groups, tokens, places(MIXED_TARGET)))
    return state


def test_every_group_has_positions_of_its_own() -> None:
    state = mixed()
    state.schedule(30, *TABLES)
    state.computed(14)
    assert state.take() == [Run(0, 0, 0, 3), Run(3, 3, 0, 3)], "neither the window nor the state"
    state.landed()
    state.computed(24)
    assert state.take() == [Run(0, 0, 3, 6), Run(1, 1, 2, 3), Run(3, 3, 3, 6)]
    state.landed()
    state.computed(28)
    assert state.take() == [Run(0, 0, 6, 7), Run(3, 3, 6, 7)], "a state is written with every token"
    state.landed()
    assert not state.has_work()
    state.computed(30)
    assert state.take() == [Run(0, 0, 7, 8), Run(1, 1, 3, 4), Run(2, 2, 1, 2), Run(3, 3, 7, 8)]
    assert state.ending is None
    state.landed()
    assert state.ending == (End.DONE, "")


def test_a_state_goes_with_its_own_layer_s_last_chunk() -> None:
    state = mixed()
    state.schedule(30, *TABLES)
    state.prompt.computed(2, 30)
    assert state.take() == [Run(2, 2, 1, 2)], "the others are not computed yet"
    state.landed()
    assert state.ending is None


def test_what_a_window_no_longer_needs_may_be_gone() -> None:
    """vLLM frees the blocks below a window while the prompt is computed: only what was asked for is looked at."""
    state = mixed()
    state.schedule(30, [1, 2, 3, 4, 5, 6, 7, 8], [0, 0, 0, 8], [0, 9])
    state.computed(20)
    assert [run.layer for run in state.take()] == [0, 3]
    assert state.ending is None


@pytest.mark.parametrize(
    ("tables", "cause"),
    [
        (([1, 2, 3, 4, 5, 6, 7, 8], [0, 0, 0, 8], [0, 9]), "not kept: positions 2 to 3 of layer1 hold no block here"),
        (([1, 2, 3, 4, 5, 6, 7, 8], [0, 0, 7], [0, 9]), "not kept: positions 2 to 3 of layer1 hold no block here"),
        (([1, 2, 3, 4, 5, 6, 7, 8], [0, 0, 7, 8], [9, 0]), "not kept: positions 1 to 1 of layer2 hold no block here"),
        (([0, 2, 3, 4, 5, 6, 7, 8], [0, 0, 7, 8], [0, 9]), "not kept: positions 0 to 7 of layer0 hold no block here"),
    ],
    ids=["null", "too short", "a state", "full attention"],
)
def test_a_wanted_block_that_is_not_kept_ends_the_share_and_nothing_is_written(
    tables: tuple[list[int], ...], cause: str
) -> None:
    state = mixed()
    state.schedule(30, *tables)
    state.computed(30)
    assert state.take() == []
    assert state.ending == (End.FAILED, cause)
    assert state.settled
    assert not state.has_work()
    assert state.delivered_blocks == 0


@pytest.mark.parametrize("first", [0, 2])
def test_a_chunk_that_has_just_ended_wants_nothing(first: int) -> None:
    shapes = [Shape(0), Shape(1)]
    state = Transfer(layer_by_layer([FULL, CHUNK], shapes))
    groups = [GroupBlocks(0, [10, 11]), GroupBlocks(first, [])]
    state.register(registration(groups, 8, places(block_by_block([FULL, CHUNK], shapes))))
    state.schedule(8, [1, 2], [0, 0])
    state.computed(8)
    assert state.take() == [Run(0, 0, 0, 2)]
    state.landed()
    assert state.ending == (End.DONE, "")


def test_a_registration_without_layers_is_done_with_the_prompt() -> None:
    """A rank whose copy somebody else sends is asked all the same, and keeps its blocks till the end."""
    state = Transfer()
    state.register(registration(blocks(0, 2), 8, layers=[]))
    assert state.ending is None
    state.schedule(8, [1, 2])
    state.computed(7)
    state.check()
    assert (state.ending, state.has_work()) == (None, False)
    state.computed(8)
    state.check()
    assert state.ending == (End.DONE, "")
    assert state.delivered_blocks == 2


def test_a_registration_may_name_some_layers_in_another_order() -> None:
    state = Transfer(MIXED_SOURCE)
    asked = [places(MIXED_TARGET)[3], places(MIXED_TARGET)[1]]
    state.register(registration(MIXED_BLOCKS, 30, asked))
    state.schedule(30, *TABLES)
    state.computed(30)
    assert state.take() == [Run(3, 0, 0, 8), Run(1, 1, 2, 4)]
    state.landed()
    assert state.ending == (End.DONE, "")


def test_layers_of_other_stages_are_left_out() -> None:
    state = Transfer(MIXED_SOURCE)
    elsewhere = LayerPlace("model.layers.7", 0, 8, 0, 1)
    asked = [elsewhere, places(MIXED_TARGET)[3], elsewhere, places(MIXED_TARGET)[1]]
    state.register(registration(MIXED_BLOCKS, 30, asked))
    assert state.places == [1, 3]
    state.schedule(30, *TABLES)
    state.computed(30)
    assert state.take() == [Run(3, 1, 0, 8), Run(1, 3, 2, 4)]
    state.landed()
    assert state.ending == (End.DONE, "")


def test_a_stage_without_any_of_the_layers_is_done_with_the_prompt() -> None:
    state = Transfer(MIXED_SOURCE)
    state.register(registration(MIXED_BLOCKS, 30, [LayerPlace("model.layers.7", 0, 8, 0, 1)]))
    state.schedule(30, *TABLES)
    assert state.ending is None
    state.computed(30)
    assert not state.take()
    state.check()
    assert state.ending == (End.DONE, "")
    assert state.delivered_blocks == len(MIXED_BLOCKS[0].block_ids)


def test_what_was_delivered_is_counted_in_the_first_group_alone() -> None:
    """Positions of groups with larger blocks are smaller numbers: they say nothing of the first group's."""
    state = mixed([GroupBlocks(5, [15, 16, 17]), GroupBlocks(3, [21]), GroupBlocks(1, [30])])
    assert state.delivered_blocks == 0
    state.schedule(30, *TABLES)
    state.computed(28)
    assert state.take() == [Run(0, 0, 5, 7), Run(3, 3, 5, 7)]
    state.landed()
    assert state.delivered_blocks == 2
    state.computed(30)
    state.take()
    state.lost("write failed: x", unended=False)
    assert state.delivered_blocks == 2
