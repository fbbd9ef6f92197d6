"""Small KV caches of a producer and of a consumer, over byte arrays that begin at address 0.

`SOURCE` and `TARGET` are the plain case, one group of full attention. `MIXED_SOURCE` and `MIXED_TARGET` have several
groups with other blocks, pages and heads. `layer_by_layer` and `block_by_block` make more of either kind.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from connector.cache.layout import CacheGroup, CacheLayer, Kind, KVLayout
from connector.control.messages import LayerPlace

BLOCK_TOKENS = 4
NUM_BLOCKS = 64
HEADS = 2
HEAD = 4
PAGE = HEADS * HEAD
LAYERS = 2
MEMORY_BYTES = 1 << 13  # has room for each of the layouts
FACTS = "same"


class Shape(NamedTuple):
    """Of one layer on one rank; `all_heads`: on all ranks together, 0 for as many as here."""

    group: int
    heads: int = HEADS
    head_bytes: int = HEAD
    first_head: int = 0
    all_heads: int = 0

    @property
    def page(self) -> int:
        return self.heads * self.head_bytes

    def layer(self, number: int, address: int, block_stride: int) -> CacheLayer:
        all_heads = self.all_heads or self.heads
        rest = (self.head_bytes, self.first_head, self.heads, all_heads)
        return CacheLayer(f"layer{number}", self.group, address, block_stride, *rest)


def layer_by_layer(groups: Sequence[CacheGroup], shapes: Sequence[Shape], num_blocks: int = NUM_BLOCKS) -> KVLayout:
    """As the producer's: nothing lies between the blocks of a layer."""
    layers, address = [], 0
    for number, shape in enumerate(shapes):
        layers.append(shape.layer(number, address, shape.page))
        address += num_blocks * shape.page
    return _fitting(KVLayout(tuple(groups), tuple(layers), num_blocks, FACTS))


def block_by_block(groups: Sequence[CacheGroup], shapes: Sequence[Shape], num_blocks: int = NUM_BLOCKS) -> KVLayout:
    """As the consumer's: a block's layers follow each other. It has other strides and addresses than the producer's, so
    that mixing the two up cannot go unnoticed."""
    layers, address, stride = [], 7, sum(shape.page for shape in shapes)
    for number, shape in enumerate(shapes):
        layers.append(shape.layer(number, address, stride))
        address += shape.page
    return _fitting(KVLayout(tuple(groups), tuple(layers), num_blocks, FACTS))


def _fitting(layout: KVLayout) -> KVLayout:
    for layer in layout.layers:
        last = layer.address + (layout.num_blocks - 1) * layer.block_stride + layer.page
        assert last <= MEMORY_BYTES, f"{layer.name} ends at {last}"
    return layout


FULL = CacheGroup(Kind.FULL, BLOCK_TOKENS)
WINDOW = CacheGroup(Kind.WINDOW, 2 * BLOCK_TOKENS)
CHUNK = CacheGroup(Kind.CHUNK, BLOCK_TOKENS)
STATE = CacheGroup(Kind.STATE, 4 * BLOCK_TOKENS)

SOURCE = layer_by_layer([FULL], [Shape(0)] * LAYERS)
TARGET = block_by_block([FULL], [Shape(0)] * LAYERS)

# Attention with two heads of 4 bytes, a window with one head of 12, a state of 20 bytes.
MIXED = [FULL, WINDOW, STATE]
MIXED_SHAPES = [Shape(0), Shape(1, 1, 12), Shape(2, 1, 20), Shape(0)]
MIXED_SOURCE = layer_by_layer(MIXED, MIXED_SHAPES)
MIXED_TARGET = block_by_block(MIXED, MIXED_SHAPES)


def places(layout: KVLayout, heads: Mapping[int, range] | None = None) -> list[LayerPlace]:
    """As a consumer registers its layers; `heads`: which of them, by how many heads a layer has, all when not said."""
    found = []
    for layer in layout.layers:
        asked = range(layer.first_head, layer.first_head + layer.heads)
        if heads is not None:
            asked = heads.get(layer.all_heads, range(0))
        if asked:
            address = layer.head_address(asked.start)
            found.append(LayerPlace(layer.name, address, layer.block_stride, asked.start, len(asked)))
    return found


def page_of(memory: bytearray, layout: KVLayout, layer: int, block: int) -> bytes:
    own = layout.layers[layer]
    start = own.address + block * own.block_stride
    return bytes(memory[start : start + own.page])


def fill_page(memory: bytearray, layout: KVLayout, layer: int, block: int, content: bytes) -> None:
    own = layout.layers[layer]
    assert len(content) == own.page
    start = own.address + block * own.block_stride
    memory[start : start + own.page] = content
