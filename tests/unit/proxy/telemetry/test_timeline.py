"""A transfer's timeline as an instance has told it, which may be none."""

from typing import Any

import pytest

from proxy.telemetry.timeline import MOST_ROWS, Chunk, Written, timeline_of


def test_it_is_read() -> None:
    told = "[[[0,3,4000,-1500,500,1],[4,5,96,100,400,2]],[[4,-3000,3000]]]"
    assert timeline_of({"timeline": told}) == (
        [Written(0, 3, 4000, -0.0015, 0.0005, 1), Written(4, 5, 96, 0.0001, 0.0004, 2)],
        [Chunk(4, -0.003, 0.003)],
    )


@pytest.mark.parametrize(
    "told",
    [
        "",
        "[",
        "5",
        "[1]",
        "[1,2]",
        "[[[1]],[]]",
        "[[[1,2,3,4,5,null]],[]]",
        "[[[1,2,3,4e300,5,6]],[]]",
        "{}",
        5,
        None,
        {},
    ],
)
def test_what_cannot_be_read_is_none(told: Any) -> None:
    assert timeline_of({"timeline": told}) == timeline_of({}) == ([], [])


def test_no_more_rows_than_a_connector_tells() -> None:
    writes, chunks = timeline_of({"timeline": str([[[1, 1, 1, 1, 1, 1]] * 1000, [[1, 1, 1]] * 1000])})
    assert len(writes) == len(chunks) == MOST_ROWS
