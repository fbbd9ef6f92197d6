"""A consumer that asks is told when each write of its share was, and under which chunk."""

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
        assert done.timeline is None
        return
    assert done.timeline is not None
    writes, chunks = done.timeline.writes, done.timeline.chunks
    assert sum(write.bytes for write in writes) == done.bytes
    assert {layer for write in writes for layer in (write.first_layer, write.last_layer)} <= set(range(LAYERS))
    assert [write.at for write in writes] == sorted(write.at for write in writes)
    assert [chunk.end for chunk in chunks] == [6, PROMPT]
    assert chunks[-1].at + chunks[-1].us == pytest.approx(0, abs=1)  # the prefill's end is the time 0
    assert chunks[0].at <= writes[0].at
