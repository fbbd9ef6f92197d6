"""Loads that end in time, late or never, and the blocks they write to."""

from collections import Counter
from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from connector.store.loads import HeldForLoads, LoadBounds, Settled

LIMIT_S = 5.0


class Pool:
    """Counts references, as vLLM's block pool does."""

    def __init__(self) -> None:
        self.references: Counter[int] = Counter()

    def hold(self, blocks: Sequence[int]) -> None:
        self.references.update(blocks)

    def free(self, blocks: Sequence[int]) -> None:
        self.references.subtract(blocks)
        assert min(self.references.values(), default=0) >= 0

    @property
    def held(self) -> set[int]:
        return set(+self.references)


def test_a_load_that_takes_too_long_is_over_for_its_request_and_its_end_is_told_later() -> None:
    now = 0.0
    bounds = LoadBounds(LIMIT_S, lambda: now)
    bounds.begun("hangs")
    bounds.begun("ends")
    now = 4.9
    assert bounds.settle({"ends"}) == Settled(finished={"ends"})
    now = 5.0
    assert bounds.settle(()) == Settled(finished={"hangs"}, overdue={"hangs"})
    assert bounds.settle(()) == Settled()
    now = 60.0
    assert bounds.settle({"hangs"}) == Settled(ended={"hangs"}), "it is not finished a second time"


def test_blocks_of_an_overdue_load_are_held_until_every_rank_says_that_it_has_ended() -> None:
    pool = Pool()
    held = HeldForLoads(pool.hold, pool.free)
    held.begins("a", [1, 2])
    assert ("a" in held, held.of_blocks({2, 7}), held.of_blocks({7})) == (True, {"a"}, set())

    assert not held.any_hangs()
    held.settle((), {"a": 1}, {})
    held.settle({"a"}, {"a": 1}, {})
    assert (pool.held, held.any_hangs()) == ({1, 2}, True)
    held.settle((), {}, {"a": 1})
    assert (pool.held, held.any_hangs()) == ({1, 2}, True)
    held.settle((), {}, {"a": 1})
    assert (pool.held, held.any_hangs()) == (set(), False)
    held.begins("a", [3])  # e.g. after a preemption
    assert pool.held == {3}


def test_others_of_the_same_output_hold_nothing() -> None:
    pool = Pool()
    held = HeldForLoads(pool.hold, pool.free)
    held.settle({"came by a transfer"}, {}, {})
    held.begins("came by a transfer", [1])

    assert pool.held == {1}, "a load that begins later is not over"


@given(
    ends=st.lists(st.lists(st.integers(0, 12), min_size=2, max_size=2), min_size=1, max_size=6),
    seconds=st.integers(13, 20),
)
def test_no_block_is_free_while_a_rank_may_write_to_it_and_none_is_lost(ends: list[list[int]], seconds: int) -> None:
    """`ends[request][rank]`: the second in which that rank's call returns."""
    pool, now = Pool(), 0.0
    held = HeldForLoads(pool.hold, pool.free)
    ranks = [LoadBounds(LIMIT_S, lambda: now) for _ in range(2)]
    for number in range(len(ends)):
        held.begins(str(number), [number])
        for rank in ranks:
            rank.begun(str(number))
    reports: Counter[str] = Counter()  # vLLM says that a request has finished once all its ranks have
    freed_at: dict[int, int] = {}
    for second in range(seconds):
        now = second
        found = [
            bounds.settle({str(number) for number, at in enumerate(ends) if at[rank] == second})
            for rank, bounds in enumerate(ranks)
        ]
        for settled in found:
            reports.update(settled.finished)
        finished = {request for request, count in reports.items() if count == len(ranks)}
        for request in finished:
            del reports[request]
        overdue, ended = Counter[str](), Counter[str]()
        for settled in found:
            overdue.update(settled.overdue)
            ended.update(settled.ended)
        held.settle(finished, overdue, ended)
        for number in set(range(len(ends))) - pool.held:
            freed_at.setdefault(number, second)

    assert freed_at == {number: max(at) for number, at in enumerate(ends)}
    assert not reports
