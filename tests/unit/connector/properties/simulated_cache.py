"""A KV cache of any model, simulated: groups and layers, what a computation leaves in their bytes, and block tables.

Tables are kept as vLLM keeps them (v1/core/single_type_kv_cache_manager.py): before each step's allocation, and once
more at a request's end, what the next token does not need gives way to null blocks, and is soon used for others.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from hypothesis import strategies as st

from connector.cache.layout import NULL_BLOCK, CacheGroup, CacheLayer, Kind, KVLayout

UNTOUCHED, RECYCLED = 0xEE, 0xDD
MOST_TOKENS = 17
Place = tuple[int, int]  # group, position


@dataclass(frozen=True)
class Group(CacheGroup):
    """`reach`: tokens of its window or chunk."""

    reach: int = 0

    def skipped(self, computed: int) -> int:
        """Tokens that are not needed to compute the next one, once so many are computed."""
        match self.kind:
            case Kind.FULL:
                return 0
            case Kind.WINDOW:
                return max(0, computed - self.reach + 1)
            case Kind.CHUNK:
                return computed // self.reach * self.reach
            case Kind.STATE:
                return max(0, computed - 1)

    def filled(self, position: int, tokens: int) -> int:
        """Of `tokens` tokens those that a block holds: of a state all that went into it."""
        if self.kind is Kind.STATE:
            return tokens
        return max(0, min(self.block_tokens, tokens - position * self.block_tokens))


@dataclass(frozen=True)
class Layer:
    """`heads`: on all ranks together; 0 where each rank's part cannot be split."""

    group: int
    heads: int
    head_bytes: int


@dataclass(frozen=True)
class Packing:
    """How layers lie in memory. `overlaid`: the n-th layers of all groups are one piece of memory, as vLLM has them."""

    overlaid: bool
    interleaved: bool  # one block of every layer, then the next block
    gap: int


@dataclass(frozen=True)
class Model:
    groups: tuple[Group, ...]
    layers: tuple[Layer, ...]

    @property
    def alignment(self) -> int:
        """Of prefix hits, in tokens."""
        return math.lcm(*(group.block_tokens for group in self.groups))

    @property
    def only_full(self) -> bool:
        return all(group.kind is Kind.FULL for group in self.groups)

    @cached_property
    def blocks_of_a_request(self) -> int:
        return sum(group.blocks(MOST_TOKENS) for group in self.groups)

    def content(self, prompt: int, layer: int, head: int, position: int, tokens: int) -> bytes:
        """Of one head of one block once `tokens` tokens are computed."""
        shape = self.layers[layer]
        filled = self.groups[shape.group].filled(position, tokens)
        return bytes([prompt << 4 | layer, head, position, filled, *range(shape.head_bytes - 4)])

    def layout(self, rank: int, ranks: int, start: int, num_blocks: int, packing: Packing) -> KVLayout:
        own = []
        for layer in self.layers:
            all_heads = layer.heads or ranks
            own.append((rank * all_heads // ranks, max(1, all_heads // ranks), all_heads))
        pages = [heads * layer.head_bytes for layer, (_, heads, _) in zip(self.layers, own, strict=True)]
        slots = list(range(len(self.layers)))
        if packing.overlaid:
            slots = [
                sum(before.group == layer.group for before in self.layers[:n]) for n, layer in enumerate(self.layers)
            ]
        sizes = [0] * len(slots)
        for slot, page in zip(slots, pages, strict=True):
            sizes[slot] = max(sizes[slot], page + packing.gap)
        layers = []
        for number, (layer, (first, heads, all_heads)) in enumerate(zip(self.layers, own, strict=True)):
            slot = slots[number]
            stride = sum(sizes) if packing.interleaved else sizes[slot]
            address = start + sum(sizes[:slot]) * (1 if packing.interleaved else num_blocks)
            layers.append(
                CacheLayer(f"l{number}", layer.group, address, stride, layer.head_bytes, first, heads, all_heads)
            )
        groups = tuple(CacheGroup(group.kind, group.block_tokens) for group in self.groups)
        return KVLayout(groups, tuple(layers), num_blocks, "same")


def heads_of(layer: CacheLayer) -> range:
    return range(layer.first_head, layer.first_head + layer.heads)


def place_of_head(layer: CacheLayer, block: int, head: int) -> int:
    return layer.address + block * layer.block_stride + (head - layer.first_head) * layer.head_bytes


def memory_of(layout: KVLayout, start: int) -> bytearray:
    end = max(layer.address + layout.num_blocks * layer.block_stride for layer in layout.layers)
    return bytearray([UNTOUCHED]) * (end - start)


class Tables:
    """One request's block table in each group, over blocks that all groups share."""

    def __init__(self, model: Model, free: list[int]) -> None:
        self._groups = model.groups
        self._free = free
        self.tables: tuple[list[int], ...] = tuple([] for _ in model.groups)

    def live(self) -> Iterator[tuple[Place, int]]:
        for number, table in enumerate(self.tables):
            for position, block in enumerate(table):
                if block != NULL_BLOCK:
                    yield (number, position), block

    def load(self, tokens: int) -> list[int]:
        """Room for what is computed elsewhere, or a prefix hit. Returns: blocks that were freed."""
        freed = self.skip(tokens)
        for group, table in zip(self._groups, self.tables, strict=True):
            for position in range(len(table), group.blocks(tokens)):
                kept = position >= group.skipped(tokens) // group.block_tokens
                table.append(self._free.pop(0) if kept else NULL_BLOCK)
        return freed

    def allocate(self, end: int) -> None:
        """Room for a step that computes up to token `end`; a state only for what it is after the step."""
        for group, table in zip(self._groups, self.tables, strict=True):
            for position in range(len(table), group.blocks(end)):
                kept = group.kind is not Kind.STATE or position == group.blocks(end) - 1
                table.append(self._free.pop(0) if kept else NULL_BLOCK)

    def skip(self, computed: int) -> list[int]:
        """Returns: blocks that were freed, to be used next."""
        freed = []
        for group, table in zip(self._groups, self.tables, strict=True):
            for position in range(min(len(table), group.skipped(computed) // group.block_tokens)):
                if table[position] != NULL_BLOCK:
                    freed.append(table[position])
                    table[position] = NULL_BLOCK
        self._free[:0] = freed
        return freed

    def drop(self) -> list[int]:
        freed = [block for _, block in self.live()]
        self._free[:0] = freed
        self.tables = tuple([] for _ in self._groups)
        return freed


def lacking(model: Model, tables: Sequence[Sequence[int]], held: int, tokens: int) -> list[tuple[Place, int]]:
    """Places that a consumer which holds the first `held` of `tokens` tokens needs for the token behind them, and the
    blocks that it has for them."""
    found = []
    for number, group in enumerate(model.groups):
        first = max(held, group.skipped(tokens)) // group.block_tokens
        for position in range(first, group.blocks(tokens)):
            assert tables[number][position] != NULL_BLOCK, f"no room for position {position} of group {number}"
            found.append(((number, position), tables[number][position]))
    return found


def _groups_of_kind(kind: Kind) -> st.SearchStrategy[Group]:
    match kind:
        case Kind.FULL:
            return st.builds(Group, st.just(kind), st.sampled_from([2, 4]))
        case Kind.WINDOW:
            return st.builds(Group, st.just(kind), st.sampled_from([2, 4]), st.sampled_from([2, 4, 5, 9]))
        case Kind.CHUNK:
            return st.builds(Group, st.just(kind), st.sampled_from([2, 4]), st.sampled_from([4, 6, 8]))
        case Kind.STATE:  # in a block for each so many tokens, or in one for the whole request
            return st.builds(Group, st.just(kind), st.sampled_from([4, 4, 2, 32]))


@st.composite
def models(draw: st.DrawFn, unsplit: bool) -> Model:
    """Args: unsplit: whether layers may be such that both sides must have as many ranks, as those of a state are."""
    kinds = [kind for kind in Kind if unsplit or kind is not Kind.STATE]
    groups = draw(st.lists(st.sampled_from(kinds).flatmap(_groups_of_kind), min_size=1, max_size=3))
    heads = [0, 1, 2, 4] if unsplit else [1, 2, 4]
    layers = []
    for number, group in enumerate(groups):
        for _ in range(draw(st.integers(1, 2))):
            kept = 0 if group.kind is Kind.STATE else draw(st.sampled_from(heads))
            layers.append(Layer(number, kept, draw(st.sampled_from([4, 6]))))
    return Model(tuple(groups), tuple(draw(st.permutations(layers))))


packings = st.sampled_from(
    [Packing(False, False, 0), Packing(True, False, 0), Packing(True, False, 3), Packing(False, True, 0)]
)


@dataclass(frozen=True)
class Served:
    """A model on two sides with tensor-parallel `ranks`; `rank` of the producer is the one that is looked at."""

    model: Model
    producer_ranks: int
    consumer_ranks: int
    rank: int
    here: Packing
    there: Packing


@st.composite
def served(draw: st.DrawFn) -> Served:
    unsplit = draw(st.booleans())
    model = draw(models(unsplit))
    producer_ranks = draw(st.sampled_from([1, 1, 2, 4]))
    consumer_ranks = producer_ranks if unsplit else draw(st.sampled_from([1, 1, 2, 4]))
    rank = draw(st.integers(0, producer_ranks - 1))
    return Served(model, producer_ranks, consumer_ranks, rank, draw(packings), draw(packings))
