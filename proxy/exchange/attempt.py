"""One try at one request: a fresh transfer id, the instances of its route, and their legs dispatched at once.

The consumer's answer decides. Its leg is a part of the request's own task, the producer's is a task beside it, which is
only listened to while the consumer has not answered: its failure then fails the try, because the consumer would wait
for blocks that never come.
"""

import asyncio
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

from proxy.errors import DeadlinePassed, LegFailed
from proxy.exchange import usage
from proxy.exchange.gateway import Gateway
from proxy.exchange.legs import Answer, Call, Deadline
from proxy.request.completion_request import CompletionRequest
from proxy.request.endpoints import Endpoint
from proxy.request.prompt import Prompt
from proxy.request.random_id import random_id
from proxy.routing.dispatch import Route
from proxy.routing.prefill_order import PRIORITY_HEADER
from proxy.telemetry.request_facts import AttemptFacts
from proxy.telemetry.tracing import RequestSpan
from proxy.verdict.breakers import Leg
from stack.instances.record import Instance

# How much later than its first token, which a consumer has passed on, a producer's answer may be.
LATE_PRODUCER_S = 1.0


class Deadlines(NamedTuple):
    """first_token: when the producer must be done and a stream must have begun; total: when everything must be over."""

    first_token: Deadline
    total: Deadline


class Job(NamedTuple):
    """What every try at one request has in common; `headers` go to both legs, `task` waits for the answer, `span` is
    the legs' parent."""

    request: CompletionRequest
    endpoint: Endpoint
    prompt: Prompt
    headers: Mapping[str, str]
    deadlines: Deadlines
    task: "asyncio.Task[Any]"
    span: RequestSpan


class Attempt:
    """Dispatches the producer's leg in its constructor and the consumer's in `answer`, which follows at once.

    Ends with `finish` or `cancel`, and a failed `answer` has already cancelled.

    `facts`: what is told of it; its times are not of the event loop, whose clock is the same, because uvloop rounds
    that to milliseconds. `prefill_answer`: the producer's, of one token.
    """

    def __init__(self, gateway: Gateway, job: Job, route: Route) -> None:
        self.facts = AttemptFacts(route, random_id() if route.producer else None, time.monotonic())
        self.failed: set[str] = set()
        self._gateway = gateway
        self._job = job
        self._route = route
        self.prefill_answer: bytes | None = None
        # What the consumer has in hand of this try; an aggregated one the prompt as well, until it has computed it.
        self._in_hand = route.decode_tokens + (0 if route.producer else route.prefill_tokens)
        self._waiting = True  # for the consumer's answer
        self._interruption: BaseException | None = None  # why `answer` was cancelled, if that was done here
        self._late: DeadlinePassed | None = None  # why the prefill leg was cancelled
        self._prefill = self._send_prefill()
        self._awaits_cache = self._prefill is not None
        self._consumer_vote = self._begin(route.consumer, self._in_hand, awaits_cache=self._awaits_cache)
        self._consumer_span = job.span.leg(route.consumer, self.facts.transfer_id)
        self._consumer_busy = True
        self._timer = self._set_timer()

    async def answer(self) -> Answer:
        """The consumer's answer, its first chunk included.

        Raises: the failure of either leg.
        """
        consumer, job = self._route.consumer, self._job
        if consumer.role == "aggregated":
            self._gateway.fleet.holds(consumer, job.prompt)
        # A whole answer does not say when its first token came.
        computes_prompt = consumer.role == "aggregated" and job.request.stream
        if computes_prompt:
            self._gateway.prefills(consumer).begin(self._route.prefill_tokens, self.facts.dispatched_at)
        answer: Answer | None = None
        try:
            await asyncio.sleep(0)  # the producer's leg goes first: the consumer can do nothing before its blocks come
            answer = await self._gateway.legs.decode(self._decode_call())
        except asyncio.CancelledError:
            self._consumer_vote.neutral()
            # Who else has cancelled the task, like a client that leaves at the same moment, comes first.
            if self._interruption is None or job.task.uncancel():
                raise
            raise self._interruption from None
        except BaseException as error:
            self._note_failure(consumer, error, self._consumer_vote)
            self._consumer_span.end(error)
            raise
        finally:
            self._waiting = False
            if computes_prompt:
                computed = 0 if answer is None else self._route.prefill_tokens
                self._gateway.prefills(consumer).end(self._route.prefill_tokens, computed, time.monotonic())
            if answer is None:
                self.cancel()
        self.facts.answered_at = time.monotonic()
        if job.endpoint.both_legs:  # else it was not the engine that answered
            self._consumer_vote.answered(self.facts.answered_at)
        self._prefilled()
        # Not before: had the transfer failed, the next try would take the prompt for one that is there already.
        self._gateway.fleet.holds(consumer, job.prompt)
        if not self._is_prefilling():
            self._timer.cancel()
        return answer

    async def producer_answered(self) -> None:
        """Returns when the producer has, which may be later than the consumer with its token; bounded."""
        if self._prefill is not None and not self._prefill.done():
            await asyncio.wait((self._prefill,), timeout=LATE_PRODUCER_S)

    def finish(self) -> None:
        """The consumer's answer is complete. A producer that still writes its own is left to it."""
        if self._job.endpoint.both_legs:
            self._consumer_vote.succeeded(time.monotonic())
        self._consumer_vote.neutral()
        self._gateway.fleet.saved(self._route.consumer, self._job.prompt)
        self._consumer_ended()

    def cancel(self) -> None:
        """Nobody waits any more: the producer's connection is closed; to close the answer is the owner's part."""
        self._timer.cancel()
        if self._prefill is not None:
            self._prefill.cancel()
        self._consumer_vote.neutral()
        self._consumer_ended()

    def broken(self, error: BaseException) -> None:
        """The answer failed after its first chunk."""
        self._consumer_span.end(error)
        self._gateway.metrics.leg_failed(self._route.consumer.role, error)
        # A stream that is cut at the end of the whole request was not silent.
        if isinstance(error, LegFailed):
            self._consumer_vote.failed(error, time.monotonic(), self._gateway.settings.proxy_token_timeout_s)

    def _send_prefill(self) -> "asyncio.Task[None] | None":
        producer, transfer_id, job = self._route.producer, self.facts.transfer_id, self._job
        if producer is None or transfer_id is None:
            return None
        tokens, prefills = self._route.prefill_tokens, self._gateway.prefills(producer)
        vote = self._begin(producer, tokens)
        order = self._gateway.fleet.order(producer)
        place = order.enter(tokens, prefills.tokens_per_s())
        prefills.begin(tokens, self.facts.dispatched_at)
        loads = self._gateway.fleet.would_load(producer, job.prompt)
        self._gateway.fleet.holds(producer, job.prompt)
        span = job.span.leg(producer, transfer_id)
        headers = {**job.headers, **span.headers, PRIORITY_HEADER: str(place.number)}
        call = Call(producer, job.endpoint, job.request.prefill_body(transfer_id), headers, vote.signs)

        async def prefill() -> None:
            self.prefill_answer = await self._gateway.legs.prefill(call)
            self.facts.prefilled_at = time.monotonic()
            self.facts.store_tokens = usage.from_store(self.prefill_answer)
            if loads:
                self._gateway.fleet.loaded(producer, self.facts.store_tokens)
            self._gateway.fleet.saved(producer, job.prompt)

        def ended(task: "asyncio.Task[None]") -> None:
            self._gateway.fleet.end(producer, tokens)
            self._cache_came()
            error = self._late if task.cancelled() else task.exception()
            # The consumer's answer too says that it was computed: its first token was sampled behind the prompt.
            computed = (self.facts.prefilled_at or self.facts.answered_at) is not None
            (order.leave if computed else order.withdraw)(place)
            span.end(error)
            if self.facts.prefilled_at is not None and error is None:
                vote.succeeded(self.facts.prefilled_at)
                prefills.end(tokens, tokens, self.facts.prefilled_at)
            else:
                self._note_failure(producer, error, vote)
                prefills.end(tokens, 0, time.monotonic())
            if not self._waiting:
                self._timer.cancel()
            elif error is not None:
                self._interrupt(error)

        task = self._gateway.loop.create_task(prefill())
        task.add_done_callback(ended)
        return task

    def _decode_call(self) -> Call:
        consumer, producer, transfer_id = self._route.consumer, self._route.producer, self.facts.transfer_id
        job, signs = self._job, self._consumer_vote.signs
        headers = {**job.headers, **self._consumer_span.headers}
        if producer is None or transfer_id is None:
            return Call(consumer, job.endpoint, job.request.local_body(), headers, signs)
        body = job.request.decode_body(transfer_id, producer)
        return Call(consumer, job.endpoint, body, {**headers, "X-PD-Transfer-Id": transfer_id}, signs)

    def _next_deadline(self) -> Deadline:
        deadlines = self._job.deadlines
        if self._job.request.stream:
            return deadlines.first_token
        if self._is_prefilling():
            return min(deadlines.first_token, deadlines.total, key=lambda deadline: deadline.at)
        return deadlines.total

    def _set_timer(self) -> asyncio.TimerHandle:
        """One for both legs: asyncio.timeout makes one each, and asks for the task and the loop several times."""
        deadline = self._next_deadline()
        return self._gateway.loop.call_at(deadline.at, self._is_late, deadline)

    def _is_late(self, deadline: Deadline) -> None:
        if self._interruption is not None:
            return  # it is over, in this very turn of the loop, and not for being late
        prefilling, passed = self._is_prefilling(), deadline.passed()
        if (
            self._prefill is not None
            and prefilling
            and (not self._waiting or deadline is self._job.deadlines.first_token)
        ):
            self._late = passed
            self._prefill.cancel()
        elif deadline is self._next_deadline():
            self._note_failure(self._route.consumer, None if prefilling else passed, self._consumer_vote)
            self._interrupt(passed)
        else:  # the producer was in time
            self._timer = self._set_timer()

    def _is_prefilling(self) -> bool:
        return self._prefill is not None and not self._prefill.done()

    def _interrupt(self, error: BaseException) -> None:
        """`answer` raises this; the first one counts."""
        if self._waiting and self._interruption is None:
            self._interruption = error
            self._job.task.cancel()

    def _prefilled(self) -> None:
        """The consumer has computed the prompt, if that was its part."""
        computed = self._in_hand - self._route.decode_tokens
        if self._consumer_busy and computed:
            self._in_hand -= computed
            self._gateway.fleet.prefilled(self._route.consumer, computed)

    def _cache_came(self) -> None:
        if self._awaits_cache:
            self._awaits_cache = False
            self._gateway.fleet.cache_came(self._route.consumer)

    def _consumer_ended(self) -> None:
        self._cache_came()
        if self._consumer_busy:
            self._consumer_busy = False
            self._consumer_span.end()
            self._gateway.fleet.end(self._route.consumer, self._in_hand)

    def _begin(self, instance: Instance, tokens: int, *, awaits_cache: bool = False) -> Leg:
        self._gateway.fleet.begin(instance, tokens, awaits_cache=awaits_cache)
        return self._gateway.breakers.begin(instance.instance_id, self.facts.dispatched_at)

    def _note_failure(self, instance: Instance, error: BaseException | None, vote: Leg) -> None:
        """Counts the end of a leg that failed; without an error it was cancelled."""
        if error is None:
            vote.neutral()
            return
        self._gateway.metrics.leg_failed(instance.role, error)
        vote.failed(error, time.monotonic())
        if isinstance(error, LegFailed):
            self.failed.add(instance.instance_id)
