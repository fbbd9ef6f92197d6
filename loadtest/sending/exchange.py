"""One request from its start to its record, whatever becomes of it."""

from dataclasses import dataclass
from typing import Any

import gevent
from gevent import GreenletExit

from loadtest.completion import proxy_facts
from loadtest.completion.client import CompletionClient
from loadtest.completion.measurement import StreamObserver
from loadtest.errors import HttpError, RequestFailed, Unfinished
from loadtest.figures.record import Outcome, RequestRecord
from loadtest.sending.arrivals import Arrival
from loadtest.sending.clock import RunClock
from loadtest.workloads import CompletionRequest


class ClientLeft(Exception):
    """A client of the workload leaves before its answer is whole."""


@dataclass(frozen=True, slots=True)
class Exchange:
    """failure: None if the request was answered, or its client left on purpose."""

    record: RequestRecord
    received_bytes: int
    failure: RequestFailed | None


def exchange(
    client: CompletionClient,
    request: CompletionRequest,
    body: bytes,
    arrival: Arrival,
    clock: RunClock,
    leave_after: float | None,
) -> Exchange:
    """Send the request, now, and read its answer to the end.

    Args: body: the request's, encoded; leave_after: seconds from now after which this client leaves; None: it stays.
    A greenlet that is killed in here gives the record of a request that did not come to its end.
    """
    observer = StreamObserver()
    facts: dict[str, Any] = {}
    failure: RequestFailed | None = None
    left = False
    started = clock.now()
    try:
        with gevent.Timeout(leave_after, ClientLeft), client.stream(request.path, body) as answer:
            try:
                for arrived_at, event in answer:
                    observer.receive(clock.at(arrived_at), event)
                observer.check_whole()
            finally:
                facts = proxy_facts.of_answer(answer.headers, answer.comment)
    except ClientLeft:
        left = True
    except GreenletExit:
        failure = Unfinished("unanswered when the test was over, LOADTEST_DRAIN_S included")
    except RequestFailed as error:
        failure = error
        if isinstance(error, HttpError):
            facts = proxy_facts.of_answer(error.headers, None)
    record = RequestRecord(
        index=arrival.index,
        outcome=_outcome(observer, failure, left=left),
        scheduled=arrival.scheduled,
        started=started,
        ended=clock.now() if failure or left or observer.done_at is None else observer.done_at,
        endpoint=request.path,
        wanted_input_tokens=request.input_tokens,
        wanted_output_tokens=request.output_tokens,
        error=type(failure).__name__ if failure else None,
        message=str(failure) if failure else None,
        **observer.fields,
        **facts,
    )
    return Exchange(record, observer.received_bytes, failure)


def _outcome(observer: StreamObserver, failure: RequestFailed | None, *, left: bool) -> Outcome:
    if left:
        return "cancelled"
    if failure is None:
        return "completed"
    return "cut_off" if observer.content_at else "failed"
