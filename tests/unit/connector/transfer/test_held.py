"""Which bytes a share's writes move, where the two sides' pages, strides and heads differ."""

import random
from dataclasses import dataclass

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from connector.cache.layout import KVLayout
from connector.cache.pieces import Piece
from connector.control.messages import GroupBlocks, LayerPlace
from connector.mooncake.checksum import checksum_of_registered
from connector.transfer.held import HeldShare
from connector.transfer.prompt import Prompt
from connector.transfer.share import Run, Share
from tests.unit.connector.fake_layouts import (
    FULL,
    MEMORY_BYTES,
    MIXED_SOURCE,
    MIXED_TARGET,
    STATE,
    WINDOW,
    Shape,
    block_by_block,
    layer_by_layer,
    places,
)
from tests.unit.connector.fakes import ArrayMemory
from tests.unit.connector.transfer.one_share import registration

GROUPS = [GroupBlocks(0, [30, 31, 40]), GroupBlocks(1, [5]), GroupBlocks(1, [9])]
TABLES = ([1, 2, 3], [0, 7], [0, 8])


def held_share(layout: KVLayout, layers: list[LayerPlace], groups: list[GroupBlocks] = GROUPS) -> HeldShare:
    return HeldShare(Share(Prompt(layout), registration(groups, 10, layers)), "tcp", "segment")


def test_each_layer_has_its_own_page_and_stride_on_either_side() -> None:
    share = held_share(MIXED_SOURCE, places(MIXED_TARGET))
    # Pages of 8, 12, 20 and 8 bytes: ours lie one layer after the other, theirs in blocks of 48 bytes from byte 7 on.
    assert share.pieces([Run(0, 0, 0, 3)], MIXED_SOURCE, TABLES) == [
        Piece(1 * 8, 7 + 30 * 48, 8),
        Piece(2 * 8, 7 + 31 * 48, 8),
        Piece(3 * 8, 7 + 40 * 48, 8),
    ]
    assert share.pieces([Run(1, 1, 1, 2)], MIXED_SOURCE, TABLES) == [Piece(64 * 8 + 7 * 12, 7 + 8 + 5 * 48, 12)]
    assert share.pieces([Run(2, 2, 1, 2)], MIXED_SOURCE, TABLES) == [Piece(64 * 20 + 8 * 20, 7 + 20 + 9 * 48, 20)]
    assert share.pieces([Run(3, 3, 1, 2)], MIXED_SOURCE, TABLES) == [Piece(64 * 40 + 2 * 8, 7 + 40 + 31 * 48, 8)]


def test_neighbours_are_one_piece_where_nothing_lies_between_them() -> None:
    same = held_share(MIXED_SOURCE, places(MIXED_SOURCE))
    assert same.pieces([Run(0, 0, 0, 3)], MIXED_SOURCE, TABLES) == [Piece(8, 30 * 8, 16), Piece(24, 40 * 8, 8)]


def test_a_run_takes_the_part_of_the_registered_blocks_that_it_names() -> None:
    """The registration begins behind the prefix that the consumer holds."""
    share = held_share(MIXED_SOURCE, places(MIXED_SOURCE), [GroupBlocks(1, [31, 40]), *GROUPS[1:]])
    assert share.pieces([Run(0, 0, 2, 3)], MIXED_SOURCE, TABLES) == [Piece(3 * 8, 40 * 8, 8)]


def test_some_heads_of_some_layers_in_the_order_of_the_registration() -> None:
    wide = layer_by_layer([FULL, WINDOW, STATE], [Shape(0, 4, 2, 4, 8), Shape(1, 1, 12), Shape(2, 1, 20), Shape(0)])
    share = held_share(wide, [LayerPlace("layer1", 5000, 12, 0, 1), LayerPlace("layer0", 100, 6, 5, 2)])
    assert share.pieces([Run(1, 0, 1, 2), Run(0, 1, 0, 1)], wide, TABLES) == [
        Piece(64 * 8 + 7 * 12, 5000 + 5 * 12, 12),
        Piece(1 * 8 + 1 * 2, 100 + 30 * 6, 4),
    ]


BLOCKS = 12
MIXED = [FULL, WINDOW, STATE]


@dataclass(frozen=True)
class Case:
    """A consumer's rank has some of the heads of a producer's rank, or more. `asked`: of those that both have."""

    source: KVLayout
    target: KVLayout
    tables: tuple[list[int], ...]
    groups: list[GroupBlocks]
    asked: list[LayerPlace]

    @property
    def runs(self) -> list[Run]:
        """Everything at once."""
        found = []
        for number, place in enumerate(self.asked):
            layer = self.source.by_name[place.name]
            group = self.source.layers[layer].group
            found.append(Run(layer, number, self.groups[group].first, len(self.tables[group])))
        return found

    def moved(self, memory: bytearray) -> bytearray:
        """Head by head and block by block."""
        arrived = bytearray(MEMORY_BYTES)
        for place in self.asked:
            ours, theirs = (layout.layers[layout.by_name[place.name]] for layout in (self.source, self.target))
            wanted, table = self.groups[ours.group], self.tables[ours.group]
            for position, block in enumerate(wanted.block_ids, start=wanted.first):
                for head in range(place.first_head, place.first_head + place.heads):
                    start = ours.head_address(head) + table[position] * ours.block_stride
                    end = theirs.head_address(head) + block * theirs.block_stride
                    arrived[end : end + ours.head_bytes] = memory[start : start + ours.head_bytes]
        return arrived


def part(draw: st.DrawFn, total: int) -> range:
    first = draw(st.integers(0, total - 1))
    return range(first, draw(st.integers(first + 1, total)))


@st.composite
def cases(draw: st.DrawFn) -> Case:
    shapes: list[list[Shape]] = []
    common: list[range] = []
    for group in draw(st.lists(st.integers(0, 2), min_size=1, max_size=4)):
        total, head_bytes = draw(st.integers(1, 4)), draw(st.integers(1, 5))
        ours, theirs = part(draw, total), part(draw, total)
        shapes.append([Shape(group, len(own), head_bytes, own.start, total) for own in (ours, theirs)])
        common.append(range(max(ours.start, theirs.start), min(ours.stop, theirs.stop)))
    source = layer_by_layer(MIXED, [ours for ours, _ in shapes], BLOCKS)
    target = block_by_block(MIXED, [theirs for _, theirs in shapes], BLOCKS)
    asked = [
        LayerPlace(layer.name, layer.head_address(heads.start), layer.block_stride, heads.start, len(heads))
        for layer, heads in zip(target.layers, common, strict=True)
        if heads
    ]
    here, there = draw(st.permutations(range(1, BLOCKS))), draw(st.permutations(range(BLOCKS)))
    tables, groups = [], []
    for group in range(3):
        count = draw(st.integers(1, 3))
        first = draw(st.integers(0, count - 1))
        tables.append(here[3 * group : 3 * group + count])
        groups.append(GroupBlocks(first, there[3 * group + first : 3 * group + count]))
    return Case(source, target, tuple(tables), groups, asked)


@given(cases(), st.integers(0, 9))
def test_every_head_arrives_in_its_place_and_nothing_else_changes(case: Case, seed: int) -> None:
    asked = msgspec.structs.replace(registration(case.groups, 10, case.asked), checksum=True)
    share = HeldShare(Share(Prompt(case.source), asked), "tcp", "segment")
    memory, arrived = bytearray(random.Random(seed).randbytes(MEMORY_BYTES)), bytearray(MEMORY_BYTES)
    for piece in share.pieces(case.runs, case.source, case.tables):
        arrived[piece.target : piece.target + piece.length] = memory[piece.source : piece.source + piece.length]
    assert arrived == case.moved(memory)
    share.add_to_checksums(case.runs, case.source, case.tables, ArrayMemory(memory))
    assert share.checksums is not None
    assert share.checksums.value() == checksum_of_registered(ArrayMemory(arrived), case.target, asked)
