"""Producers that forget one group of layers while a file names it: as if its blocks had been left out by mistake."""

from pathlib import Path


def forget_the_group_of(file: Path) -> None:
    """In this process and those that it forks. The file holds a group's number."""
    from connector.cache.layout import KVLayout
    from connector.cache.pieces import Piece
    from connector.transfer.held import BlockTables, HeldShare
    from connector.transfer.share import Run

    pieces_of = HeldShare.pieces

    def pieces(share: HeldShare, runs: list[Run], layout: KVLayout, block_ids: BlockTables) -> list[Piece]:
        forgotten = int(file.read_text()) if file.exists() else None
        kept = [run for run in runs if layout.layers[run.layer].group != forgotten]
        return pieces_of(share, kept, layout, block_ids)

    HeldShare.pieces = pieces  # type: ignore[assignment, method-assign]
