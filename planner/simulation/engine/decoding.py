"""The answers under way on one instance: each makes a token in every step.

All of them advance together, so nothing is done for each of them in a step: they are known by the number of the step
behind which they end, and by the steps in which they need a new block.
"""

import heapq
from collections.abc import Iterator

from planner.simulation.engine.sequence import Sequence


class Decoding:
    """context: tokens that they read in the next step. `step`: of the instance, how many are over or under way."""

    def __init__(self, block_tokens: int) -> None:
        self.context = 0
        self._sequences: dict[Sequence, None] = {}
        self._ending: list[tuple[int, int, Sequence]] = []  # a heap, also of some that are not here any more
        self._new_block = [0] * block_tokens  # how many need one in a step, by its number modulo a block

    def __len__(self) -> int:
        return len(self._sequences)

    def add(self, sequence: Sequence, step: int) -> None:
        sequence.joined = step
        sequence.ends = step + sequence.output_tokens - sequence.made
        self._sequences[sequence] = None
        heapq.heappush(self._ending, (sequence.ends, sequence.number, sequence))
        self.context += sequence.computed
        self._new_block[self._phase(sequence)] += 1

    def remove(self, sequence: Sequence, step: int) -> None:
        """Between two steps: it has ended, or loses its blocks."""
        del self._sequences[sequence]
        self._new_block[self._phase(sequence)] -= 1
        steps = step - sequence.joined
        sequence.computed += steps
        sequence.made += steps
        sequence.stretches[-1][1] = step
        self.context -= sequence.computed

    def advance(self, steps: int) -> None:
        self.context += steps * len(self._sequences)

    def ended(self, step: int) -> Iterator[Sequence]:
        """Those that have made all their tokens; each is removed."""
        while self._ending and self._ending[0][0] <= step:
            ends, _, sequence = heapq.heappop(self._ending)
            if self._is_here(sequence, ends):
                self.remove(sequence, step)
                yield sequence

    def next_end(self) -> int:
        """The step behind which the first of them ends; there is one."""
        while not self._is_here(self._ending[0][2], self._ending[0][0]):
            heapq.heappop(self._ending)
        return self._ending[0][0]

    def last(self) -> Sequence:
        return next(reversed(self._sequences))

    def growth(self, step: int, steps: int) -> int:
        """Blocks that they need in so many steps from `step` on."""
        size = len(self._new_block)
        cycles, rest = divmod(steps, size)
        return cycles * len(self._sequences) + sum(self._new_block[(step + number) % size] for number in range(rest))

    def _is_here(self, sequence: Sequence, ends: int) -> bool:
        return sequence in self._sequences and sequence.ends == ends

    def _phase(self, sequence: Sequence) -> int:
        """It needs a new block when the number of its tokens is a multiple of a block's."""
        return (sequence.joined - sequence.computed) % len(self._new_block)
