"""How much is served at once and how much may wait: bounds in requests and in tokens, and one queue, in order.

A request larger than a token bound counts as that bound: it is served, alone. Nobody overtakes the head of the queue,
so a large request waits for the room it needs and then has it. What finds the queue full is refused, and told when the
queue will have been worked off at the rate of late.
"""

import asyncio
import math
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from proxy.errors import RETRY_AFTER_S, SloUnreachable, TooBusy

MAX_RETRY_AFTER_S = 60.0
MEMORY_S = 30.0  # of busy time, in which a rate forgets all but a third of what was


@dataclass(frozen=True)
class AdmissionLimits:
    """Tokens: None is no bound. A queue of 0 requests refuses what cannot be served at once."""

    running_requests: int
    queued_requests: int
    running_tokens: int | None = None
    queued_tokens: int | None = None


class Throughput:
    """Tokens per second of the time in which there was something to do, of late; time in seconds is passed in.

    Idle time does not count: after a quiet night the rate is still that of the evening. Nor does time in which nothing
    ran but what nothing came of: requests that are refused would make an instance look slow.
    """

    def __init__(self) -> None:
        self._tokens = 0.0
        self._busy_s = 0.0
        self._before = (0.0, 0.0)  # both, when something came of a request for the last time, or nothing ran
        self._running = 0
        self._seen = 0.0

    def begin(self, now: float) -> None:
        self._advance(now)
        if not self._running:
            self._before = self._tokens, self._busy_s
        self._running += 1

    def end(self, tokens: int, now: float) -> None:
        """Every `begin` has its end; 0 tokens when nothing came of it."""
        self._advance(now)
        self._running -= 1
        self._tokens += tokens
        if tokens:
            self._before = self._tokens, self._busy_s
        elif not self._running:
            self._tokens, self._busy_s = self._before

    def tokens_per_s(self) -> float | None:
        """None before there is a measurement."""
        return self._tokens / self._busy_s if self._tokens and self._busy_s else None

    def _advance(self, now: float) -> None:
        if self._running:
            passed = now - self._seen
            kept = math.exp(-passed / MEMORY_S)
            self._tokens *= kept
            self._busy_s = self._busy_s * kept + MEMORY_S * (1 - kept)
        self._seen = now


class Prefills:
    """The prompts that one instance has yet to compute, and how fast it has been of late.

    computed: tokens, of all that came back since the beginning.
    """

    def __init__(self) -> None:
        self.tokens = 0
        self.computed = 0
        self._throughput = Throughput()

    def begin(self, tokens: int, now: float) -> None:
        self.tokens += tokens
        self._throughput.begin(now)

    def end(self, tokens: int, computed: int, now: float) -> None:
        """Every `begin` has its end, with the same tokens; 0 were computed when nothing came of it."""
        self.tokens -= tokens
        self.computed += computed
        self._throughput.end(computed, now)

    def tokens_per_s(self) -> float | None:
        """None before there is a measurement."""
        return self._throughput.tokens_per_s()

    def refuse_late_first_token(self, slo_s: float, prompt_tokens: int, ahead: int | None = None) -> None:
        """The TTFT predicted for one more prompt has to keep the SLO; before there is a measurement it does.

        Args: ahead: tokens that are computed before it, unset: all that there are.
        Raises: SloUnreachable.
        """
        tokens_per_s = self._throughput.tokens_per_s()
        if tokens_per_s is None:
            return
        predicted_s = ((self.tokens if ahead is None else ahead) + prompt_tokens) / tokens_per_s
        if predicted_s > slo_s:
            raise SloUnreachable(predicted_s, slo_s, _bounded(predicted_s - slo_s))


class Admission:
    """`ticket = await admission.enter(tokens)`, then `ticket.leave()` however the request ends. Of one event loop."""

    def __init__(self, limits: AdmissionLimits, clock: Callable[[], float] = time.monotonic) -> None:
        self.running_requests = 0
        self.running_tokens = 0
        self.queued_tokens = 0
        self._limits = limits
        self._clock = clock
        self._queue: OrderedDict[_Waiter, None] = OrderedDict()
        self._throughput = Throughput()

    @property
    def queued_requests(self) -> int:
        return len(self._queue)

    def enter_at_once(self, tokens: int) -> "Ticket | None":
        """None when there is no room, or when others wait for it."""
        tokens = _capped(tokens, self._limits.running_tokens)
        return self._start(tokens) if not self._queue and self._has_room_for(tokens) else None

    async def enter(self, tokens: int) -> "Ticket":
        """Returns at once, without giving way to other tasks, when there is room and nobody waits.

        Raises: TooBusy: the queue is full.
        """
        if (ticket := self.enter_at_once(tokens)) is not None:
            return ticket
        tokens = _capped(tokens, self._limits.running_tokens)
        waiter = self._line_up(tokens)
        try:
            return await waiter.ticket
        except asyncio.CancelledError:
            if waiter in self._queue:
                self._step_out(waiter)
                self._serve_queue()
            elif not waiter.ticket.cancelled():  # admitted and cancelled before it could run
                waiter.ticket.result().leave()
            raise

    def _line_up(self, tokens: int) -> "_Waiter":
        weight = _capped(tokens, self._limits.queued_tokens)
        if len(self._queue) >= self._limits.queued_requests or not _fits(
            self.queued_tokens + weight, self._limits.queued_tokens
        ):
            raise TooBusy("The queue is full.", retry_after(self.queued_tokens, self._throughput.tokens_per_s()))
        waiter = _Waiter(asyncio.get_running_loop().create_future(), tokens, weight)
        self._queue[waiter] = None
        self.queued_tokens += weight
        return waiter

    def _step_out(self, waiter: "_Waiter") -> None:
        del self._queue[waiter]
        self.queued_tokens -= waiter.weight

    def _serve_queue(self) -> None:
        while self._queue:
            waiter = next(iter(self._queue))
            if waiter.ticket.done():  # cancelled, and its task has not run since
                self._step_out(waiter)
            elif self._has_room_for(waiter.tokens):
                self._step_out(waiter)
                waiter.ticket.set_result(self._start(waiter.tokens))
            else:
                return

    def _has_room_for(self, tokens: int) -> bool:
        return self.running_requests < self._limits.running_requests and _fits(
            self.running_tokens + tokens, self._limits.running_tokens
        )

    def _start(self, tokens: int) -> "Ticket":
        self.running_requests += 1
        self.running_tokens += tokens
        self._throughput.begin(self._clock())
        return Ticket(self, tokens)

    def _left(self, tokens: int) -> None:
        self.running_requests -= 1
        self.running_tokens -= tokens
        self._throughput.end(tokens, self._clock())
        self._serve_queue()


class Ticket:
    """A place among those that are served."""

    def __init__(self, admission: Admission, tokens: int) -> None:
        self._admission: Admission | None = admission
        self._tokens = tokens

    def leave(self) -> None:
        """Gives the place back; the first call counts."""
        admission, self._admission = self._admission, None
        if admission is not None:
            admission._left(self._tokens)


@dataclass(frozen=True, eq=False)
class _Waiter:
    ticket: "asyncio.Future[Ticket]"
    tokens: int
    weight: int  # what of it counts in the queue


def retry_after(tokens_ahead: int, tokens_per_s: float | None) -> float:
    """Seconds until these are worked off, from 1 to MAX_RETRY_AFTER_S."""
    if tokens_per_s is None:
        return RETRY_AFTER_S
    return _bounded(tokens_ahead / tokens_per_s)


def _bounded(seconds: float) -> float:
    return min(max(seconds, 1.0), MAX_RETRY_AFTER_S)


def _capped(tokens: int, limit: int | None) -> int:
    return tokens if limit is None else min(tokens, limit)


def _fits(tokens: int, limit: int | None) -> bool:
    return limit is None or tokens <= limit
