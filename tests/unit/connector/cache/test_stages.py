"""Which ranks of a producer's pipeline a rank of a consumer's asks, and for how many each works."""

from dataclasses import replace

import pytest

from connector.cache.heads import Source, sources
from connector.cache.layout import CacheGroup, Kind, KVLayout
from connector.cache.stages import over_stages, refuse_disagreement

WHOLE, FIRST, SECOND = {2: range(2)}, {2: range(1)}, {2: range(1, 2)}


def test_one_stage_on_both_sides_changes_nothing() -> None:
    plan = sources(2, 4, {2})
    assert over_stages(plan, 1, 1) == plan


def test_every_stage_of_the_producer_is_asked() -> None:
    assert over_stages(sources(1, 1, {2}), 1, 3) == [[Source(rank, WHOLE, 1) for rank in range(3)]]


def test_every_stage_of_the_consumer_asks() -> None:
    assert over_stages(sources(1, 1, {2}), 3, 1) == [[Source(0, WHOLE, 3)]] * 3


def test_ranks_of_a_stage_follow_each_other() -> None:
    """Ranks 0 and 1 are the producer's first stage, 2 and 3 its second."""
    one, other = over_stages(sources(1, 2, {2}), 2, 2)
    assert one == other == [Source(0, FIRST, 2), Source(1, SECOND, 2), Source(2, FIRST, 2), Source(3, SECOND, 2)]
    ranks = over_stages(sources(2, 1, {2}), 2, 2)
    assert ranks == [
        [Source(0, FIRST, 4), Source(1, FIRST, 4)],
        [Source(0, SECOND, 4), Source(1, SECOND, 4)],
        [Source(0, FIRST, 4), Source(1, FIRST, 4)],
        [Source(0, SECOND, 4), Source(1, SECOND, 4)],
    ]


def test_a_rank_with_nothing_to_give_is_asked_in_every_stage() -> None:
    (asked,) = over_stages(sources(1, 2, {1}), 1, 2)
    assert [(source.rank, bool(source.heads)) for source in asked] == [(0, True), (1, False), (2, True), (3, False)]


LAYOUT = KVLayout((CacheGroup(Kind.FULL, 4),), (), 10, "facts", stages=2)


@pytest.mark.parametrize(
    "other",
    [
        {"groups": (CacheGroup(Kind.WINDOW, 4),)},
        {"groups": (CacheGroup(Kind.FULL, 8),)},
        {"num_blocks": 11},
        {"facts": "others"},
        {"lookahead": 1},
    ],
    ids=str,
)
def test_stages_that_disagree(other: dict[str, object]) -> None:
    refuse_disagreement([LAYOUT, LAYOUT])
    with pytest.raises(ValueError, match=f"rank 2 has {next(iter(other))} .*expected the same on all ranks"):
        refuse_disagreement([LAYOUT, LAYOUT, replace(LAYOUT, **other)])  # type: ignore[arg-type]
