"""How blocks become few and large writes. Pure arithmetic; sizes and addresses are in bytes."""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple


class Piece(NamedTuple):
    """One contiguous write."""

    source: int
    target: int
    length: int


class BlockRun(NamedTuple):
    """Blocks `source`, `source + 1`, … go to `target`, `target + 1`, …"""

    source: int
    target: int
    blocks: int


def block_runs(pairs: Iterable[tuple[int, int]]) -> list[BlockRun]:
    """Join (source block, target block) pairs whose blocks are neighbours on both sides.

    The order of the pairs does not matter: they are sorted, because vLLM hands blocks out in descending order once they
    were freed, and a transfer engine's bandwidth grows with the size of the piece (TCP from host memory: 2.4 GB/s at
    64 KiB, 4.0 at 1 MiB; NVLink: 12 and 148).
    """
    runs: list[BlockRun] = []
    for source, target in sorted(pairs):
        if runs:
            last = runs[-1]
            if last.source + last.blocks == source and last.target + last.blocks == target:
                runs[-1] = BlockRun(last.source, last.target, last.blocks + 1)
                continue
        runs.append(BlockRun(source, target, 1))
    return runs


def pieces_of_layer(
    source: int, source_stride: int, target: int, target_stride: int, length: int, runs: Sequence[BlockRun]
) -> list[Piece]:
    """The writes that move `length` bytes of every block of one layer.

    Args: source, target: where they begin in block 0 of the layer on each side.
    """
    if length == source_stride == target_stride:  # nothing lies between the blocks of a run
        return [Piece(source + run.source * length, target + run.target * length, run.blocks * length) for run in runs]
    return [
        Piece(source + (run.source + n) * source_stride, target + (run.target + n) * target_stride, length)
        for run in runs
        for n in range(run.blocks)
        if length
    ]


def batches(pieces: Sequence[Piece], most: int) -> Iterator[list[Piece]]:
    """Pieces, cut where necessary, in batches of at most `most` bytes."""
    batch: list[Piece] = []
    room = most
    for source, target, length in pieces:
        while length:
            taken = min(length, room)
            batch.append(Piece(source, target, taken))
            source, target, length, room = source + taken, target + taken, length - taken, room - taken
            if not room:
                yield batch
                batch, room = [], most
    if batch:
        yield batch
