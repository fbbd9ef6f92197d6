"""A consumer that asks is told when each write of its share was, and under which chunk."""

import json

import pytest

from connector.control.messages import Done
from tests.unit.connector.fake_layouts import LAYERS
from tests.unit.connector.transfer.producer_rank import HERE, PROMPT, THERE, NewRank


@pytest.mark.parametrize("asked", [True, False])
def test_the_timeline_of_a_transfer(asked: bool, new_rank: NewRank) -> None:
    rank = new_rank()
    rank.register(1, THERE, timeline=asked)
    rank.chunk(1, PROMPT, HERE[:2], 6)
    rank.chunk(1, PROMPT, HERE, PROMPT)
    rank.release(1)
    done = rank.outbox.take_next()
    assert isinstance(done, Done)
    rank.until_released("r1")
    if not asked:
        assert done.timeline == ""
        return
    writes, chunks = json.loads(done.timeline)
    assert sum(size for _, _, size, _, _, _ in writes) == done.bytes
    assert {layer for first, last, *_ in writes for layer in (first, last)} <= set(range(LAYERS))
    assert [row[3] for row in writes] == sorted(row[3] for row in writes)
    assert [end for end, _, _ in chunks] == [6, PROMPT]
    assert chunks[-1][1] + chunks[-1][2] == pytest.approx(0, abs=1)  # the prefill's end is the time 0
    assert chunks[0][1] <= writes[0][3]
