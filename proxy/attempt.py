"""One try at one request: a fresh transfer id, the instances of its route, and their legs dispatched at once.

The consumer's answer decides. The producer is only listened to while the consumer has not answered: its failure then
fails the try, because the consumer would wait for blocks that never come.
"""

import asyncio
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass

from proxy.breaker import Leg
from proxy.completion_request import CompletionRequest
from proxy.dispatch import Route
from proxy.endpoints import Endpoint
from proxy.errors import DeadlinePassed, LegFailed, RejectedByInstance
from proxy.gateway import Gateway
from proxy.legs import Answer, Call, Deadline
from proxy.prompt import Prompt
from stack.instances import Instance


@dataclass(frozen=True)
class Deadlines:
    """first_token: when the producer must be done and a stream must have begun; total: when everything must be over."""

    first_token: Deadline
    total: Deadline


@dataclass(frozen=True)
class Job:
    """What every try at one request has in common; `headers` go to both legs."""

    request: CompletionRequest
    endpoint: Endpoint
    prompt: Prompt
    headers: Mapping[str, str]
    deadlines: Deadlines


class Attempt:
    """Dispatches in its constructor; ends with `finish` or `cancel`, and a failed `answer` has already cancelled.

    `dispatched_at`, `prefilled_at`, `answered_at`: of `time.monotonic`, which is the event loop's clock too, but uvloop
    rounds that to milliseconds; None for what has not happened.
    """

    def __init__(self, gateway: Gateway, job: Job, route: Route) -> None:
        self.route = route
        self.transfer_id = secrets.token_hex(16) if route.producer else None
        self.failed: set[str] = set()
        self._gateway = gateway
        self._decided = asyncio.get_running_loop().create_future()
        self.dispatched_at = time.monotonic()
        self.prefilled_at: float | None = None
        self.answered_at: float | None = None
        # What the consumer has in hand of this try; an aggregated one the prompt as well, until it has computed it.
        self._in_hand = route.decode_tokens + (0 if route.producer else route.prefill_tokens)
        self._prefill = self._send_prefill(job)
        self._consumer_vote = self._begin(route.consumer, self._in_hand)
        self._decode = self._send_decode(job)
        self._consumer_busy = True

    @property
    def prefill_answer(self) -> bytes | None:
        """The producer's answer of one token, once it is here."""
        return self._prefill.result() if self._prefill and self.prefilled_at is not None else None

    async def answer(self) -> Answer:
        """The consumer's answer, its first chunk included.

        Raises: the failure of either leg.
        """
        try:
            await self._decided
            if self._prefill is not None and not self._decode.done():
                self._prefill.result()
            return self._decode.result()
        except BaseException:
            self.cancel()
            raise

    def finish(self) -> None:
        """The consumer's answer is complete. A producer that still writes its own is left to it."""
        self._consumer_vote.succeeded()
        self._consumer_ended()

    def _consumer_ended(self) -> None:
        if self._consumer_busy:
            self._consumer_busy = False
            self._gateway.fleet.end(self.route.consumer, self._in_hand)

    def cancel(self) -> None:
        """Nobody waits any more: closes both connections, wherever they are."""
        if self._prefill is not None:
            self._prefill.cancel()
        if not self._decode.cancel() and not self._decode.cancelled() and self._decode.exception() is None:
            self._decode.result().close()
            self._consumer_vote.abandoned()
        self._consumer_ended()

    def broken(self, error: BaseException) -> None:
        """The answer failed after its first chunk."""
        self._gateway.metrics.leg_failed(self.route.consumer.role, error)
        if isinstance(error, LegFailed):
            self._consumer_vote.failed(time.monotonic())

    def _send_prefill(self, job: Job) -> "asyncio.Task[bytes] | None":
        producer, transfer_id = self.route.producer, self.transfer_id
        if producer is None or transfer_id is None:
            return None
        vote = self._begin(producer, self.route.prefill_tokens)
        self._gateway.fleet.holds(producer, job.prompt)
        call = Call(producer, job.endpoint, job.request.prefill_body(transfer_id), job.headers)
        task = asyncio.create_task(self._gateway.legs.prefill(call, job.deadlines.first_token))

        def ended(task: "asyncio.Task[bytes]") -> None:
            self._gateway.fleet.end(producer, self.route.prefill_tokens)
            if self._note_failure(producer, task, vote):
                self._decide()
            else:
                vote.succeeded()
                self.prefilled_at = time.monotonic()

        task.add_done_callback(ended)
        self._count_prefill(producer, task)
        return task

    def _send_decode(self, job: Job) -> "asyncio.Task[Answer]":
        consumer, producer = self.route.consumer, self.route.producer
        if consumer.role == "aggregated":
            self._gateway.fleet.holds(consumer, job.prompt)
        if producer is None or self.transfer_id is None:
            call = Call(consumer, job.endpoint, job.request.local_body(), job.headers)
        else:
            body = job.request.decode_body(self.transfer_id, producer)
            call = Call(consumer, job.endpoint, body, {**job.headers, "X-PD-Transfer-Id": self.transfer_id})
        deadline = job.deadlines.first_token if job.request.stream else job.deadlines.total
        task = asyncio.create_task(self._gateway.legs.decode(call, deadline))

        def answered(task: "asyncio.Task[Answer]") -> None:
            if not self._note_failure(consumer, task, self._consumer_vote):
                self._consumer_vote.answered()
                self.answered_at = time.monotonic()
                self._prefilled()
                # Not before: had the transfer failed, the next try would take the prompt for one that is there already.
                self._gateway.fleet.holds(consumer, job.prompt)

        task.add_done_callback(answered)
        task.add_done_callback(lambda _: self._decide())
        # A whole answer does not say when its first token came.
        if consumer.role == "aggregated" and job.request.stream:
            self._count_prefill(consumer, task)
        return task

    def _decide(self) -> None:
        """The consumer's leg has ended, or the producer's has failed."""
        if not self._decided.done():  # nor cancelled
            self._decided.set_result(None)

    def _count_prefill(self, instance: Instance, task: "asyncio.Task[bytes] | asyncio.Task[Answer]") -> None:
        """The prompt is in hand until `task` is done; how fast these are worked off is what TTFT is predicted from."""
        tokens, prefills = self.route.prefill_tokens, self._gateway.prefills(instance)
        prefills.begin(tokens, self.dispatched_at)

        def ended(task: "asyncio.Task[bytes] | asyncio.Task[Answer]") -> None:
            computed = 0 if task.cancelled() or task.exception() else tokens
            prefills.end(tokens, computed, time.monotonic())

        task.add_done_callback(ended)

    def _prefilled(self) -> None:
        """The consumer has computed the prompt, if that was its part."""
        computed = self._in_hand - self.route.decode_tokens
        if self._consumer_busy and computed:
            self._in_hand -= computed
            self._gateway.fleet.prefilled(self.route.consumer, computed)

    def _begin(self, instance: Instance, tokens: int) -> Leg:
        self._gateway.fleet.begin(instance, tokens)
        return self._gateway.breakers.begin(instance.instance_id, self.dispatched_at)

    def _note_failure(self, instance: Instance, task: "asyncio.Task[bytes] | asyncio.Task[Answer]", vote: Leg) -> bool:
        """Counts the end of a leg. Returns: whether it failed or was cancelled."""
        if task.cancelled():
            vote.abandoned()
            return True
        error = task.exception()
        if error is None:
            return False
        self._gateway.metrics.leg_failed(instance.role, error)
        if isinstance(error, LegFailed):
            self.failed.add(instance.instance_id)
            vote.failed(time.monotonic())
        elif isinstance(error, RejectedByInstance):
            vote.succeeded()
        elif isinstance(error, DeadlinePassed) and not self._waits_for_the_producer(instance):
            vote.failed(time.monotonic())
        else:
            vote.abandoned()
        return True

    def _waits_for_the_producer(self, instance: Instance) -> bool:
        return instance is self.route.consumer and self._prefill is not None and self.prefilled_at is None
