"""Who waits for an instance's steps: who has come lately, who waits to begin, and whose KV cache is here."""

import heapq
from collections import deque

from planner.simulation.engine.sequence import Sequence


class Queues:
    """ready: whose KV cache has come. A step is known by its number."""

    def __init__(self) -> None:
        self.ready: deque[Sequence] = deque()
        self._coming: deque[tuple[int, Sequence]] = deque()  # of either kind, with the step that can have it first
        self._waiting: list[tuple[int, int, Sequence]] = []

    def come(self, sequence: Sequence, first_step: int) -> None:
        self._coming.append((first_step, sequence))

    def admit(self, step: int, nothing_runs: bool) -> None:
        """What has come is seen by the scheduler, all of it where there is nothing to run meanwhile."""
        while self._coming and (nothing_runs or self._coming[0][0] <= step):
            _, sequence = self._coming.popleft()
            if sequence.has_come:
                self.ready.append(sequence)
            else:
                self.wait(sequence)

    def wait(self, sequence: Sequence) -> None:
        heapq.heappush(self._waiting, (sequence.priority, sequence.number, sequence))

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    def first(self) -> Sequence:
        """Of those that wait, of whom there is one."""
        return self._waiting[0][2]

    def begin_first(self) -> None:
        heapq.heappop(self._waiting)

    def steps_before_next(self, step: int) -> int | None:
        """Until one that comes can be had; None: none comes."""
        return self._coming[0][0] - step if self._coming else None
