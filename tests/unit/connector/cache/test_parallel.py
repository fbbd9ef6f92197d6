"""Heads over ranks: every head of every consumer's rank comes exactly once, and every producer's rank is asked."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connector.cache.heads import Source, heads_of_rank, sources

SIZES = st.sampled_from([1, 2, 4, 8])


@pytest.mark.parametrize(
    ("ranks", "total", "expected"),
    [
        (1, 4, [[0, 1, 2, 3]]),
        (2, 4, [[0, 1], [2, 3]]),
        (4, 4, [[0], [1], [2], [3]]),
        (4, 2, [[0], [0], [1], [1]]),
        (2, 1, [[0], [0]]),
        (2, 6, [[0, 1, 2], [3, 4, 5]]),
    ],
)
def test_heads_of_each_rank(ranks: int, total: int, expected: list[list[int]]) -> None:
    assert [list(heads_of_rank(rank, ranks, total)) for rank in range(ranks)] == expected


def test_heads_that_no_even_split_fits() -> None:
    with pytest.raises(ValueError, match="3 KV heads cannot be spread evenly over 2 ranks"):
        heads_of_rank(0, 2, 3)


def test_equal_ranks_fill_each_other() -> None:
    assert sources(2, 2, 4) == [[Source(0, 0, 2, 1)], [Source(1, 2, 2, 1)]]


def test_one_rank_fills_two() -> None:
    assert sources(2, 1, 4) == [[Source(0, 0, 2, 2)], [Source(0, 2, 2, 2)]]


def test_two_ranks_fill_one() -> None:
    assert sources(1, 2, 4) == [[Source(0, 0, 2, 1), Source(1, 2, 2, 1)]]


def test_copies_share_the_consumers() -> None:
    assert sources(2, 2, 1) == [[Source(0, 0, 1, 1)], [Source(1, 0, 1, 1)]]


def test_a_superfluous_copy_is_asked_for_nothing() -> None:
    assert sources(1, 2, 1) == [[Source(0, 0, 1, 1), Source(1, 0, 0, 1)]]


@given(SIZES, SIZES, SIZES)
def test_every_head_comes_once_and_nobody_is_forgotten(ranks: int, producer_ranks: int, total: int) -> None:
    plan = sources(ranks, producer_ranks, total)
    for rank, own in enumerate(plan):
        heads = [head for source in own for head in range(source.first_head, source.first_head + source.heads)]
        assert sorted(heads) == list(heads_of_rank(rank, ranks, total))
        for source in own:
            held = heads_of_rank(source.rank, producer_ranks, total)
            assert not source.heads or held.start <= source.first_head <= held.stop - source.heads
    asked = [source for own in plan for source in own]
    assert {source.rank for source in asked} == set(range(producer_ranks))
    for source in asked:
        assert source.shares == sum(other.rank == source.rank for other in asked)
