import pytest

from connector.cache.pieces import Piece, batches, block_runs, pieces_of_layer

PAGE = 8


@pytest.mark.parametrize(
    ("strides", "blocks", "pieces"),
    [
        ((PAGE, PAGE), [], []),
        ((PAGE, PAGE), [(2, 5)], [(116, 1040, 8)]),
        ((PAGE, PAGE), [(2, 5), (3, 6), (4, 7)], [(116, 1040, 24)]),
        ((PAGE, PAGE), [(2, 5), (3, 7)], [(116, 1040, 8), (124, 1056, 8)]),  # neighbours on one side only
        ((PAGE, PAGE), [(2, 5), (4, 6)], [(116, 1040, 8), (132, 1048, 8)]),
        ((PAGE, PAGE), [(4, 7), (3, 6), (2, 5)], [(116, 1040, 24)]),  # as vLLM hands out blocks that were freed
        ((PAGE, PAGE), [(2, 6), (3, 5)], [(116, 1048, 8), (124, 1040, 8)]),  # descending on one side only
        ((PAGE, PAGE), [(0, 0), (1, 1), (5, 5), (6, 6)], [(100, 1000, 16), (140, 1040, 16)]),
        ((2 * PAGE, PAGE), [(0, 0), (1, 1)], [(100, 1000, 8), (116, 1008, 8)]),  # gaps between the source's pages
        ((PAGE, 2 * PAGE), [(0, 0), (1, 1)], [(100, 1000, 8), (108, 1016, 8)]),
    ],
)
def test_neighbours_merge(
    strides: tuple[int, int], blocks: list[tuple[int, int]], pieces: list[tuple[int, int, int]]
) -> None:
    found = pieces_of_layer(100, strides[0], 1000, strides[1], PAGE, block_runs(blocks))
    assert found == [Piece(*piece) for piece in pieces]


def test_a_part_of_each_block_is_a_piece_of_its_own() -> None:
    found = pieces_of_layer(100, PAGE, 1000, PAGE // 2, PAGE // 2, block_runs([(0, 0), (1, 1)]))
    assert found == [Piece(100, 1000, 4), Piece(108, 1004, 4)]


def test_a_share_without_heads_has_no_pieces() -> None:
    assert pieces_of_layer(100, PAGE, 1000, PAGE, 0, block_runs([(0, 0), (1, 1)])) == []


@pytest.mark.parametrize(
    ("lengths", "expected"),
    [
        ([], []),
        ([4], [[4]]),
        ([4, 6], [[4, 6]]),
        ([4, 7], [[4, 6], [1]]),
        ([25], [[10], [10], [5]]),
        ([10, 0, 1], [[10], [1]]),
    ],
)
def test_batches_cut_pieces_where_they_are_full(lengths: list[int], expected: list[list[int]]) -> None:
    pieces = [Piece(100 * number, 7000 + 100 * number, length) for number, length in enumerate(lengths)]
    found = list(batches(pieces, 10))
    assert [[piece.length for piece in batch] for batch in found] == expected
    covered = [(piece.source + n, piece.target + n) for batch in found for piece in batch for n in range(piece.length)]
    assert covered == [(piece.source + n, piece.target + n) for piece in pieces for n in range(piece.length)]
