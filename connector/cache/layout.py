"""What one rank's KV cache looks like: groups of layers that share a block table, and where each layer's blocks lie.

Pure: no torch, no vLLM. Sizes and addresses are in bytes, blocks and positions count from 0. A *position* is a place in
a request's block table: position `p` of a group holds tokens `p * block_tokens` and on.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import cached_property

# vLLM's null block: it stands in a block table for what is kept no longer, or was never needed.
NULL_BLOCK = 0


class Kind(Enum):
    """Which of a request's blocks a group keeps."""

    FULL = "full attention"  # all of them
    WINDOW = "sliding window"  # those that hold the last tokens
    CHUNK = "chunked local attention"  # those of the chunk that the next token lies in
    STATE = "state"  # one: the recurrent state after the last token; of what came before nothing is left


@dataclass(frozen=True)
class CacheGroup:
    """Layers that share a block table. `block_tokens`: tokens that a block stands for, also where it holds a state."""

    kind: Kind
    block_tokens: int

    def blocks(self, tokens: int) -> int:
        """Places of the block table that so many tokens reach, the last one perhaps in part."""
        return -(-tokens // self.block_tokens)

    def wanted(self, table: Sequence[int], tokens: int, held: int) -> tuple[int, list[int]]:
        """What a consumer lacks of `tokens` tokens when it has computed the first `held`: the first position, and the
        blocks from there on. None where nothing of them is needed: below a window, or when a chunk has just ended.

        Args: table: its block table, null blocks included.
        """
        end = self.blocks(tokens)
        first = end - 1 if self.kind is Kind.STATE else held // self.block_tokens
        while first < end and table[first] == NULL_BLOCK:
            first += 1
        return first, list(table[first:end])


@dataclass(frozen=True)
class CacheLayer:
    """Block `b` begins at `address + b * block_stride`.

    In it KV heads `first_head` and on follow each other, `head_bytes` each; `all_heads` is how many the layer has on
    all ranks together. What cannot be told apart in one write counts as one head of its rank: heads that are
    interleaved token by token, or a state; `all_heads` is then the number of ranks. `cache`: what both sides must have
    in common of this layer, for people to read.
    """

    name: str
    group: int
    address: int
    block_stride: int
    head_bytes: int
    first_head: int
    heads: int
    all_heads: int
    cache: str = ""

    @property
    def page(self) -> int:
        return self.heads * self.head_bytes

    def head_address(self, head: int) -> int:
        """Of the head in block 0."""
        return self.address + (head - self.first_head) * self.head_bytes


@dataclass(frozen=True)
class KVLayout:
    """`facts`: what both sides must have in common, a JSON object that names each fact in a refusal.

    `lookahead`: tokens behind those computed that a draft reads. `stages`: of the instance's pipeline. `layers` are
    those of this rank's stage, which may have none of a group; groups, blocks and facts are those of every stage.
    """

    groups: tuple[CacheGroup, ...]
    layers: tuple[CacheLayer, ...]
    num_blocks: int
    facts: str = ""
    lookahead: int = 0
    stages: int = 1

    @cached_property
    def by_name(self) -> dict[str, int]:
        return {layer.name: number for number, layer in enumerate(self.layers)}

    @property
    def partial_loads(self) -> bool:
        """Whether a prompt of which only the first blocks arrived is worth something: a window, a chunk or a state
        is of use only at the prompt's end, and vLLM can name lost blocks only where it has one group."""
        return [group.kind for group in self.groups] == [Kind.FULL]


def left_out_tokens(kinds: Iterable[Kind], lookahead: int = 0) -> int:
    """How many tokens at a prompt's end are not moved, by either side, because the consumer computes them anyway.

    vLLM always computes the last token of a prompt itself. In full attention that token's K and V are overwritten by
    the same; a state must not contain it yet, and a window or a chunk must reach back from it and not from the token
    behind it: kept for N tokens they lack the first block at every length where one has just ended.

    Args: lookahead: tokens behind those computed that a draft reads (vLLM's `num_prefill_lookahead_tokens`). A draft
        of several modules would write what it guessed of the answer into the last `lookahead - 1` places.
    """
    return max(0 if set(kinds) <= {Kind.FULL} else 1, lookahead - 1)
