"""Loads from the store that take too long: their requests go on at once, their blocks only when the load has ended.

A load that hangs may still write after its request was given up: over TCP until Mooncake drops the connection, over
RDMA until `late_client.py` has taken the memory back from it. Both are before the call returns, so the load's blocks
stay out of the pool until then, and the request computes its prompt in others.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Settled:
    """What a step has to report of loads, by request id."""

    finished: set[str] = field(default_factory=set)  # over for the request; those of `overdue` among them
    overdue: set[str] = field(default_factory=set)  # failed by their bound, still running
    ended: set[str] = field(default_factory=set)  # overdue ones that have now ended


class LoadBounds:
    """A rank's loads, of which none keeps its request longer than `limit_s`."""

    def __init__(self, limit_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit_s = limit_s
        self._clock = clock
        self._since: dict[str, float] = {}
        self._overdue: set[str] = set()

    def begun(self, request_id: str) -> None:
        self._since[request_id] = self._clock()

    def settle(self, returned: Iterable[str]) -> Settled:
        """`returned`: requests whose load has ended since the last call, well or not."""
        ended = self._overdue & set(returned)
        self._overdue -= ended
        finished = set(returned) - ended
        for request_id in finished:
            self._since.pop(request_id, None)
        now = self._clock()
        overdue = {request_id for request_id, since in self._since.items() if now - since >= self._limit_s}
        for request_id in overdue:
            del self._since[request_id]
        self._overdue |= overdue
        return Settled(finished | overdue, overdue, ended)


class HeldForLoads:
    """Blocks that loads write to, each referenced once more than by its request until every rank's load has ended.

    `hold` and `free` are the block pool's.
    """

    def __init__(self, hold: Callable[[Sequence[int]], None], free: Callable[[Sequence[int]], None]) -> None:
        self._hold = hold
        self._free = free
        self._blocks: dict[str, list[int]] = {}
        self._running: Counter[str] = Counter()  # ranks that report an overdue load's end later
        self._over: set[str] = set()  # for the request

    def begins(self, request_id: str, blocks: Iterable[int]) -> None:
        assert request_id not in self._blocks, f"a second load of {request_id} beside one that has not ended"
        self._blocks[request_id] = list(blocks)
        self._hold(self._blocks[request_id])

    def __contains__(self, request_id: str) -> bool:
        return request_id in self._blocks

    def any_hangs(self) -> bool:
        """Whether an overdue load has not ended yet."""
        return any(ranks > 0 for ranks in self._running.values())

    def of_blocks(self, blocks: set[int]) -> set[str]:
        """Requests whose load writes to one of them."""
        return {request_id for request_id, held in self._blocks.items() if not blocks.isdisjoint(held)}

    def settle(self, finished: Iterable[str], overdue: Mapping[str, int], ended: Mapping[str, int]) -> None:
        """`overdue`, `ended`: by request, how many ranks have said so. `finished`: all ranks have reported."""
        self._running.update(overdue)
        self._running.subtract(ended)
        self._over |= self._blocks.keys() & set(finished)
        for request_id in [request_id for request_id in self._over if self._running[request_id] <= 0]:
            self._over.discard(request_id)
            del self._running[request_id]
            self._free(self._blocks.pop(request_id))
