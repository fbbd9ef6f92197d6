"""When an instance's steps end: a run of them is planned at once, and may be cut or change its pace while it lasts."""

from bisect import bisect_left
from collections.abc import Callable, Iterable
from functools import partial

from planner.simulation.clock import Clock


class Steps:
    """`ends`: of each step that is over or planned, in seconds. busy_s: in those that are over. began: the run did."""

    def __init__(self, clock: Clock, over: Callable[[int], None]) -> None:
        """Args: over: is called at the end of each run, with how many steps it had."""
        self.ends: list[float] = []
        self.busy_s = 0.0
        self.planned = 0  # of the run under way
        self._clock = clock
        self._over = over
        self.began = 0.0
        self._slower = 1.0
        self._at_end: list[Callable[[], None]] = []
        self._run = 0  # its number: an event of an earlier one is void

    def __len__(self) -> int:
        """That are over or under way."""
        return len(self.ends)

    @property
    def first(self) -> int:
        """The number of the run's first one."""
        return len(self.ends) - self.planned

    def at_end(self, happen: Callable[[], None]) -> None:
        """Of the step under way, at once where none is: then is seen what comes from outside now."""
        if self.planned == 1:  # whose end may change
            self._at_end.append(happen)
        else:
            self._clock.at(self.ends[self._under_way()] if self.planned else self._clock.now, happen)

    def begin(self, lasts_s: Iterable[float], slower: float) -> None:
        """Args: lasts_s: each of the run's steps, which are so many times `slower` than they would be alone."""
        self.began = end = self._clock.now
        self._slower = slower
        before = len(self.ends)
        for seconds in lasts_s:
            end += seconds
            self.ends.append(end)
        self._plan(len(self.ends) - before)

    def cut(self) -> None:
        """The run ends with the step that is under way."""
        last = self._under_way()
        if last + 1 < len(self.ends):
            first = self.first
            del self.ends[last + 1 :]
            self._plan(len(self.ends) - first)

    def change_pace(self, slower: float) -> None:
        """What is left of the run, which is of one step where the pace can change, takes longer or less from now on."""
        if self.planned and slower != self._slower:
            self.ends[-1] = self._clock.now + (self.ends[-1] - self._clock.now) * slower / self._slower
            self._slower = slower
            self._plan(1)

    def _under_way(self) -> int:
        return bisect_left(self.ends, self._clock.now, lo=self.first)

    def _plan(self, steps: int) -> None:
        self.planned = steps
        self._run += 1
        self._clock.at(self.ends[-1], partial(self._end, self._run))

    def _end(self, run: int) -> None:
        if run == self._run:
            self.busy_s += self._clock.now - self.began
            steps, self.planned = self.planned, 0
            at_end, self._at_end = self._at_end, []
            for happen in at_end:
                happen()
            self._over(steps)
