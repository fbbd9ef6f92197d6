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
    with pytest.raises(ValueError, match="3 KV heads cannot be spread evenly over 2 ranks"):
        sources(2, 1, {2, 3})


def test_a_producer_without_ranks() -> None:
    with pytest.raises(ValueError, match="the producer has no rank"):
        sources(2, 0, {2})


def test_equal_ranks_fill_each_other() -> None:
    assert sources(2, 2, {4}) == [[Source(0, {4: range(2)}, 1)], [Source(1, {4: range(2, 4)}, 1)]]


def test_one_rank_fills_two() -> None:
    assert sources(2, 1, {4}) == [[Source(0, {4: range(2)}, 2)], [Source(0, {4: range(2, 4)}, 2)]]


def test_two_ranks_fill_one() -> None:
    assert sources(1, 2, {4}) == [[Source(0, {4: range(2)}, 1), Source(1, {4: range(2, 4)}, 1)]]


def test_copies_share_the_consumers() -> None:
    assert sources(2, 2, {1}) == [[Source(0, {1: range(1)}, 1)], [Source(1, {1: range(1)}, 1)]]


def test_a_superfluous_copy_is_asked_for_nothing() -> None:
    assert sources(1, 2, {1}) == [[Source(0, {1: range(1)}, 1), Source(1, {}, 1)]]


def test_layers_with_other_heads_come_from_the_same_ranks() -> None:
    """One that every rank has a copy of (MLA) comes from the first of two, one that is split from both."""
    assert sources(1, 2, {1, 2}) == [[Source(0, {1: range(1), 2: range(1)}, 1), Source(1, {2: range(1, 2)}, 1)]]
    assert sources(2, 1, {1, 4}) == [
        [Source(0, {1: range(1), 4: range(2)}, 2)],
        [Source(0, {1: range(1), 4: range(2, 4)}, 2)],
    ]
    assert sources(2, 2, {1, 2}) == [
        [Source(0, {1: range(1), 2: range(1)}, 1)],
        [Source(1, {1: range(1), 2: range(1, 2)}, 1)],
    ]


@given(SIZES, SIZES, st.sets(SIZES, min_size=1, max_size=3))
def test_every_head_comes_once_and_nobody_is_forgotten(ranks: int, producer_ranks: int, totals: set[int]) -> None:
    plan = sources(ranks, producer_ranks, totals)
    for total in totals:
        for rank, own in enumerate(plan):
            heads = [head for source in own for head in source.heads.get(total, ())]
            assert sorted(heads) == list(heads_of_rank(rank, ranks, total))
            for source in own:
                held = heads_of_rank(source.rank, producer_ranks, total)
                assert set(source.heads.get(total, ())) <= set(held)
    asked = [source for own in plan for source in own]
    assert {source.rank for source in asked} == set(range(producer_ranks))
    for source in asked:
        assert source.shares == sum(other.rank == source.rank for other in asked)
        assert all(source.heads.values()), "a layer without heads is left out"
