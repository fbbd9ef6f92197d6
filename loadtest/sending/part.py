"""The part of a test that one process makes: its share of the arrivals, each a greenlet of its own.

In open loop a greenlet starts every request at its time, whatever becomes of those before it; in closed loop Locust's
users take the next index when they are free. Either way every request that was begun gives a record, and the part is
over when the schedule is and no request is left.
"""

import gc
import itertools
import json
import logging
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import gevent
from gevent.event import Event
from gevent.pool import Group
from locust.log import greenlet_exception_logger

from loadtest.sending import arrivals
from loadtest.sending.arrivals import Arrival
from loadtest.sending.clock import RunClock
from loadtest.sending.connections import Connections
from loadtest.sending.exchange import Exchange, exchange
from loadtest.settings import LoadTestSettings
from loadtest.workloads import CompletionRequest, ServedTokenizer, workload

_PREPARED_AHEAD = 32  # requests; a burst then costs no more than the sending

Receiver = Callable[[Exchange, LoadTestSettings], None]


@dataclass(frozen=True, slots=True)
class Share:
    """Arrivals whose index is `worker` modulo `workers`; none is scheduled `seconds` after the zero, or later."""

    worker: int
    workers: int
    seconds: float


class Part:
    """`prepare`, then `begin`; `over` is set when it has ended by itself or by `stop`.

    Args: receive: gets every exchange as it ends, with the settings.
    """

    def __init__(self, settings: LoadTestSettings, share: Share, receive: Receiver) -> None:
        self.settings = settings
        self.begun = Event()
        self.over = Event()
        self._share = share
        self._receive = receive
        self._connections = Connections(settings)
        self._open = Group()
        self._stopping = False
        self._exhausted = Event()
        self._greenlet: gevent.Greenlet | None = None
        self._clock = RunClock(0.0)

    @property
    def seconds(self) -> float:
        """No request is begun so long after the zero, or later."""
        return self._share.seconds

    @property
    def is_closed_loop(self) -> bool:
        return self.settings.loadtest_arrivals == "closed"

    def prepare(self) -> None:
        """Ask the server what is needed to make requests. Raises: RequestFailed, ValueError: the test cannot begin."""
        model = self.settings.loadtest_model or self._served_model()
        tokenizer = ServedTokenizer.of(self._connections.of_tokenizer(), model)
        self._workload = workload(self.settings, model, tokenizer)
        limits = (self.settings.loadtest_requests, self._workload.requests)
        limit = min((number for number in limits if number is not None), default=None)
        if self.is_closed_loop:
            self._indices = itertools.islice(itertools.count(), self._share.worker, limit, self._share.workers)
        else:
            whole = arrivals.schedule(self.settings, self._workload.start_times, self._share.seconds, limit)
            self._arrivals = arrivals.share_of(whole, self._share.worker, self._share.workers)

    def begin(self, zero: float) -> None:
        """Args: zero: of the schedule, `time.time()`."""
        _freeze_what_is_there()
        self._clock = RunClock(zero)
        self._greenlet = gevent.spawn(self._run)
        self._greenlet.link_exception(greenlet_exception_logger(logging.getLogger(__name__)))
        self.begun.set()

    def stop(self, drain_s: float) -> None:
        """Begin no further request, give the open ones so many seconds, then end them. Returns when all have ended."""
        if self._greenlet is not None:
            self._greenlet.kill()
        self._end(drain_s)

    def make_next(self) -> Exchange | None:
        """For a user who is free: make the next request now and wait for its end; None: there was none to make."""
        gevent.sleep(max(0.0, -self._clock.now()))
        if self._stopping or self._clock.now() >= self._share.seconds:
            return None
        index = next(self._indices, None)
        if index is None:
            self._exhausted.set()
            return None
        prepared = self._prepared(index)
        greenlet = self._spawn(Arrival(index, self._clock.now()), prepared)
        try:
            greenlet.join()
        finally:
            greenlet.kill()  # the user was stopped and does not wait any longer
        done: Exchange | None = greenlet.value
        return done

    def _served_model(self) -> str:
        client = self._connections.take()
        try:
            return client.served_model()
        finally:
            client.close()

    def _run(self) -> None:
        if self.is_closed_loop:
            ahead = self._share.seconds - self._clock.now()
            self._exhausted.wait(None if ahead == float("inf") else max(0.0, ahead))
        else:
            self._dispatch(self._arrivals)
        self._end(self.settings.loadtest_drain_s)

    def _dispatch(self, due: Iterator[Arrival]) -> None:
        ready: deque[tuple[Arrival, tuple[CompletionRequest, bytes]]] = deque()
        while True:
            ahead = ready[0][0].scheduled - self._clock.now() if ready else 0.0
            if ready and ahead <= 0:
                self._spawn(*ready.popleft())
            elif len(ready) < _PREPARED_AHEAD and (arrival := next(due, None)):
                ready.append((arrival, self._prepared(arrival.index)))
                gevent.sleep(0)  # what arrived meanwhile is read first
            elif ready:
                gevent.sleep(ahead)
            else:
                return

    def _prepared(self, index: int) -> tuple[CompletionRequest, bytes]:
        request = self._workload.request(index)
        return request, json.dumps(request.body).encode()

    def _spawn(self, arrival: Arrival, prepared: tuple[CompletionRequest, bytes]) -> gevent.Greenlet:
        greenlet = self._open.spawn(self._make, arrival, *prepared)
        greenlet.link_exception(greenlet_exception_logger(logging.getLogger(__name__)))
        return greenlet

    def _make(self, arrival: Arrival, request: CompletionRequest, body: bytes) -> Exchange:
        client = self._connections.take()
        done = exchange(client, request, body, arrival, self._clock, self._leaves_after(arrival.index))
        self._connections.give_back(client, done)
        self._receive(done, self.settings)
        return done

    def _leaves_after(self, index: int) -> float | None:
        return self.settings.loadtest_cancel_after_s if arrivals.client_leaves(self.settings, index) else None

    def _end(self, drain_s: float) -> None:
        self._stopping = True
        self.begun.set()  # who waits for it finds nothing left to do
        self._open.join(timeout=drain_s)
        self._open.kill()
        self._connections.close()
        self.over.set()


def _freeze_what_is_there() -> None:
    """Later collections look at this test's objects alone.

    One of all that was imported took 50 ms, in which chunks pile up in sockets and get the stamp of the last one.
    """
    gc.unfreeze()  # what an earlier test has left
    gc.collect()
    gc.freeze()
