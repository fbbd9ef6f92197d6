"""In which order one producer computes the prompts that it has been sent: short ones first, within a bound.

vLLM (`--scheduling-policy priority`) takes what waits by the least priority number, given once, with the request. A
number that never changes must hold the request's age as well. Here it is a virtual finish time, as fair queueing has it
(L. Zhang, "VirtualClock", SIGCOMM 1990; Demers, Keshav and Shenker, "Analysis and simulation of a fair queueing
algorithm", SIGCOMM 1989): the time at which first come, first served would begin with the prompt, plus `factor` times
what it takes to compute it.

    number = begin + factor x work      begin = max(now, begin of the one before + its work)

**The bound.** Whatever overtakes prompt i came later, so its `begin` is that of i plus at least the work of i and of
all that came in between. Let j be the last of them, and S the work of the others:

    begin_j >= begin_i + work_i + S, and it overtakes: begin_j + factor x work_j < begin_i + factor x work_i,
    so S + work_j < (factor - 1) x (work_i - work_j)

All that overtakes i is therefore less than (factor - 1) times i's own work, however much comes, and when. A server
that is never idle while something waits, and finishes what it has begun, has the same work left under any order. So i
is done at most that much later than first come, first served would have had it done, which is at most `factor` times
as long after its arrival. All of it is expected work: what the caller says of each prompt. `factor` 1 is first come,
first served. tests/unit/proxy/routing/test_prefill_order.py has it for any arrivals.

**Who leaves before it was computed** gives its work back: what comes next begins so much earlier, or this proxy's
prompts would stand behind those of every other one for nothing. With L, the work of those before i that have left so,

    begin_j >= begin_i + work_i + S - L, so S + work_j < (factor - 1) x (work_i - work_j) + L

where S has none of those that left. L itself is not computed, so the bound stays, against first come, first served as
it would have been had nobody left. What was computed and then left is not given back, or a client that leaves at the
last moment would put one prompt after the other before everybody. A prompt cannot have been begun while another one
here had a smaller number; since then the producer has computed at most `FASTEST_RATE` of it.

Work is tokens over the rate at which the producer computes them. The bound holds for any rate that does not rise while
something waits, so within a busy period it only falls; the next one begins with what was measured last. Time is the
wall clock's, so that workers and proxies that do not know of each other have numbers that fit together. Each of the
others can put before i what first come, first served would have put there, and `factor` times i's work.
"""

import heapq
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

Order = Literal["arrival", "shortest"]

# Of 2, 4, 8 and 16 the least with which nearly all is gained: docs/benchmarks/README.md, "The order of prompts".
FACTORS: dict[Order, int] = {"arrival": 1, "shortest": 8}
PRIORITY_HEADER = "X-Vllm-Priority"  # vLLM: it wins over the body's `priority`
UNKNOWN_RATE = 100_000.0  # tokens/s before anything was measured: too fast, which is first come, first served
# Less is no rate: while nothing is finished what was measured falls to a third every half minute, without end, and
# vLLM's number has 64 bits.
SLOWEST_RATE = 0.1
FASTEST_RATE = 1_000_000.0  # tokens/s: no producer computes a prompt faster
MICROSECONDS = 1_000_000


class Place(NamedTuple):
    """Of one prompt. number: vLLM's priority, the least comes first: microseconds since 1970 and its share of them."""

    number: int
    tokens: int
    turn: int


@dataclass(slots=True)
class _Inside:
    """work: microseconds, as expected. next_since: Unix time since when it may have been begun, None: it cannot be."""

    place: Place
    work: float
    next_since: float | None = None


class PrefillOrder:
    """Of one producer: `place = order.enter(...)` for each prompt that is sent there; at its end `order.leave(place)`,
    or `order.withdraw(place)` where nobody knows that it was computed.

    clock: Unix time, in seconds.
    """

    def __init__(self, factor: int, clock: Callable[[], float] = time.time) -> None:
        self._factor = factor
        self._clock = clock
        self._inside: dict[int, _Inside] = {}  # by turn, which is the order in which they came
        self._by_number: list[tuple[int, int]] = []  # a heap of (number, turn), also of some that have left
        self._turns = 0
        self._begin = 0.0  # when a prompt that came now would begin, first come, first served; in microseconds
        self._per_token = 0.0  # microseconds

    def enter(self, tokens: int, tokens_per_s: float | None) -> Place:
        """Args: tokens: that the producer has to compute; tokens_per_s: as measured of late, None before that."""
        measured = MICROSECONDS / max(tokens_per_s or UNKNOWN_RATE, SLOWEST_RATE)
        now = self._clock() * MICROSECONDS
        if self._inside:
            self._per_token = max(self._per_token, measured)
            self._begin = max(self._begin, now)
        else:
            self._per_token, self._begin = measured, now
        work = tokens * self._per_token
        place = Place(round(self._begin + self._factor * work), tokens, self._turns)
        self._inside[place.turn] = _Inside(place, work)
        heapq.heappush(self._by_number, (place.number, place.turn))
        self._note_next()
        self._turns += 1
        self._begin += work
        return place

    def ahead(self, tokens: int) -> int:
        """Tokens that come before a prompt of so many: all that have a smaller number, and what came first.

        That one is most likely being computed, and vLLM finishes what it has begun before it begins anything else.
        """
        places = (inside.place for inside in self._inside.values())
        if (first := next(places, None)) is None:
            return 0
        number = max(self._begin, self._clock() * MICROSECONDS) + self._factor * tokens * self._per_token
        return first.tokens + sum(place.tokens for place in places if place.number <= number)

    def leave(self, place: Place) -> None:
        """It was computed."""
        del self._inside[place.turn]
        self._note_next()

    def withdraw(self, place: Place) -> None:
        """Nobody waits for it any more, or its producer has failed."""
        inside = self._inside.pop(place.turn)
        self._note_next()
        begun_s = 0.0 if inside.next_since is None else max(0.0, self._clock() - inside.next_since)
        left = max(0.0, place.tokens - FASTEST_RATE * begun_s)
        if left:
            self._begin -= inside.work * left / place.tokens

    def _note_next(self) -> None:
        """The producer may begin with the one that has the smallest number."""
        while self._by_number and self._by_number[0][1] not in self._inside:
            heapq.heappop(self._by_number)
        if self._by_number:
            following = self._inside[self._by_number[0][1]]
            if following.next_since is None:
                following.next_since = self._clock()
