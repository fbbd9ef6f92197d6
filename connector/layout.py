"""Where a block of a layer lies in memory, and how neighbouring blocks become few writes.

Pure arithmetic: no torch, no vLLM. Sizes and addresses are in bytes.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple


class Piece(NamedTuple):
    """One contiguous write."""

    source: int
    target: int
    length: int


@dataclass(frozen=True)
class KVLayout:
    """The KV cache of one rank: block `b` of layer `l` is `page` bytes at `layer_addresses[l] + b * block_stride`."""

    layer_addresses: tuple[int, ...]
    block_stride: int
    page: int
    num_blocks: int

    def address(self, layer: int, block: int) -> int:
        return self.layer_addresses[layer] + block * self.block_stride


def pieces_of_layer(
    source: int, source_stride: int, target: int, target_stride: int, page: int, blocks: Sequence[tuple[int, int]]
) -> list[Piece]:
    """The writes that move pages of one layer; neighbours on both sides merge, because a transfer engine's bandwidth
    grows with the size of the piece (TCP, host memory: 2.4 GB/s at 64 KiB, 4.0 at 1 MiB).

    Args: source, target: address of block 0 of the layer on each side; blocks: (source block, target block) pairs.
    Returns: pieces in the order of the pairs.
    """
    pieces: list[Piece] = []
    for source_block, target_block in blocks:
        here, there = source + source_block * source_stride, target + target_block * target_stride
        if pieces:
            last = pieces[-1]
            if last.source + last.length == here and last.target + last.length == there:
                pieces[-1] = Piece(last.source, last.target, last.length + page)
                continue
        pieces.append(Piece(here, there, page))
    return pieces


def fingerprint(**facts: object) -> str:
    """A short hash of everything that two instances must share before one may write into the other's cache."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]
