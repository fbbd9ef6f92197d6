"""A step's word comes late, or once more: the transfer may be over by then, or wait for that word only."""

from connector.control.messages import Cancelled, Done
from tests.unit.connector.fakes import LateFences
from tests.unit.connector.transfer.producer_rank import HERE, PROMPT, THERE, NewRank


def test_a_transfer_that_is_over_before_the_gpu_comes_to_its_step_ends_once(new_rank: NewRank) -> None:
    fences = LateFences()
    rank = new_rank(fences=fences)
    rank.register(1, THERE)
    rank.chunk(1, PROMPT, HERE, 10)
    rank.cancel(1)
    rank.release(1)
    fences.drain()
    assert isinstance(rank.outbox.take_next(), Cancelled)
    rank.until_released("r1")
    rank.assert_nothing_left()


def test_a_rank_that_gets_nothing_learns_the_end_after_a_preemption_too(new_rank: NewRank) -> None:
    rank = new_rank()
    rank.chunk(1, PROMPT, HERE, 10)
    rank.preempt("r1")
    rank.register(1, THERE, layers=[])
    rank.chunk(1, PROMPT, HERE, 10)
    rank.release(1)
    assert isinstance(rank.outbox.take_next(), Done)
    rank.until_released("r1")
