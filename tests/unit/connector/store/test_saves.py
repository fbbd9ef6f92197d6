"""Saves that may begin while others wait."""

import pytest

from connector.store.saves import affordable

LIMIT = 182.0  # a quarter of 728 blocks


@pytest.mark.parametrize(
    ("waiting", "saves", "expected"),
    [
        (range(0), [], []),
        (range(0), [range(500)], [True]),
        (range(192), [range(250)], [True]),  # a prompt's first chunks, and its last one
        (range(182), [range(300, 310)], [True]),
        (range(183), [range(300, 310)], [False]),
        (range(183), [range(300, 310), range(250)], [False, True]),
        (range(0), [range(200), range(200, 210)], [True, False]),  # within one step too
        (range(0), [range(200), range(210)], [True, True]),  # a prefix in common
    ],
)
def test_only_what_other_requests_keep_is_counted(waiting: range, saves: list[range], expected: list[bool]) -> None:
    assert affordable(saves, waiting, LIMIT) == expected


def test_a_store_that_takes_nothing_keeps_the_limit_and_one_request_at_most() -> None:
    kept: set[int] = set()
    for first in range(0, 10_000, 50):
        blocks = range(first, first + 50)
        if affordable([blocks], kept, LIMIT) == [True]:
            kept |= set(blocks)
    assert LIMIT < len(kept) <= LIMIT + 50
