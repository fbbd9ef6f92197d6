"""A transfer's writes and chunks as they are told: in order, joined where there are many, short enough for the pipe."""

import json
import os
import select
from itertools import pairwise
from pathlib import Path

import pytest

from connector.telling.timeline import MOST_CHUNKS, MOST_WRITES, ChunkTimes, WriteTimes, joined, text_of
from connector.telling.transfer_facts import FactsWriter

PREFILL_END = 1000.0
LONGEST = [
    [[1023, 1023, 10**12, -(10**9), 10**8, 99]] * MOST_WRITES,
    [[10**7, -(10**9), 10**9]] * MOST_CHUNKS,
]
FACTS = {
    "transfer_id": "f" * 32,
    "bytes": 10**12,
    "early_bytes": 10**12,
    "pieces": 10**9,
    "seconds": 1000 / 7,
    "exposed_seconds": 1000 / 7,
    "transport": "nvlink_intra",
    "tokens": 10**7,
    "left_out": 1,
}


def test_writes_are_told_as_they_were() -> None:
    writes, chunks = WriteTimes(), ChunkTimes()
    chunks.begins(512, 999.0)
    chunks.computed(512, 999.5)
    writes.add(0, 3, 4096, 999.25, 999.75)
    chunks.begins(600, 999.4)  # scheduled while the one before is at work
    chunks.computed(600, 999.9)
    chunks.computed(600, PREFILL_END)
    writes.add(4, 4, 96, 1000.0, 1000.25)
    assert json.loads(text_of(writes, chunks, PREFILL_END)) == [
        [[0, 3, 4096, -750_000, 500_000, 1], [4, 4, 96, 0, 250_000, 1]],
        [[512, -1_000_000, 500_000], [600, -500_000, 500_000]],
    ]


@pytest.mark.parametrize("count", [MOST_WRITES, MOST_WRITES + 1, 3 * MOST_WRITES, 3001])
def test_many_become_few_and_none_is_lost(count: int) -> None:
    writes, chunks = WriteTimes(), ChunkTimes()
    for number in range(count):
        writes.add(number % 30, number % 30, 100, 10.0 + number, 10.5 + number)
        chunks.begins(number + 1, 10.0 + number)
        chunks.computed(number + 1, 11.0 + number)
    rows, steps = json.loads(text_of(writes, chunks, 10.0))
    assert len(rows) <= MOST_WRITES
    assert len(steps) <= MOST_CHUNKS
    assert sum(row[5] for row in rows) == count
    assert sum(row[2] for row in rows) == 100 * count
    assert rows[0][3] == steps[0][1] == 0
    assert rows[-1][3] + rows[-1][4] == (count - 1) * 1_000_000 + 500_000
    assert steps[-1][0] == count
    for one, other in pairwise(steps):
        assert one[1] + one[2] == other[1]


def test_shares_of_several_ranks_are_told_as_one() -> None:
    shares = [str([[[0, 0, 10, 1000 * at + rank, 5, 1] for at in range(MOST_WRITES)], [[8, -9, 9]]]) for rank in (0, 1)]
    rows, steps = json.loads(joined(shares))
    assert len(rows) == MOST_WRITES
    assert rows[0] == [0, 0, 20, 0, 6, 2]
    assert steps == [[8, -9, 9]]
    assert joined(["", shares[0], ""]) == shares[0]
    assert joined(["", ""]) == joined([]) == ""


@pytest.mark.parametrize("garbage", ["x", "[]", "[[[]],[[]]]", '[[["a"]],[]]', "[[[1.5,2,3,4,5,6]],[]]"])
def test_what_cannot_be_read_is_left_out(garbage: str) -> None:
    told = "[[[0,0,10,1,5,1]],[[8,-9,9]]]"
    assert joined([garbage, told]) == told


def test_the_longest_still_fits_the_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    write = FactsWriter(str(tmp_path / "pipe"))
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    told = FACTS | {"timeline": json.dumps(LONGEST, separators=(",", ":"))}
    write(told)
    line = os.read(reader, 1 << 16)
    assert len(line) <= select.PIPE_BUF
    assert json.loads(line) == told
    write(told | {"transport": "x" * 1000})
    assert json.loads(os.read(reader, 1 << 16)) == FACTS | {"transport": "x" * 1000}
    os.close(reader)
