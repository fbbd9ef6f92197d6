"""One client request from its headers to the last byte of its answer.

Until the consumer's first chunk every failure becomes an HTTP status, or one more try on another instance. After it
(or after a sign of life, where that had to go out before it) a failure becomes an SSE `error` event, and the stream
ends without its last event. However the request ends (answered, failed, client gone, proxy stopped), `close` settles
both legs, counts it and writes its one log line.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import structlog

from proxy.errors import (
    InstanceError,
    LegFailed,
    ModelNotFound,
    NoInstance,
    ProxyError,
    ShuttingDown,
    code,
    http_error,
)
from proxy.exchange.attempt import Attempt, Deadlines, Job
from proxy.exchange.counted import Counted
from proxy.exchange.gateway import Gateway
from proxy.exchange.legs import Answer, Deadline
from proxy.request.completion_request import CompletionRequest
from proxy.request.endpoints import Endpoint
from proxy.request.json_body import bound_sequences
from proxy.request.prompt import Prompt, read_prompt
from proxy.request.request_id import fits
from proxy.routing.admission import Ticket
from proxy.routing.dispatch import Demand
from proxy.telemetry.history import Asked, Ended
from proxy.telemetry.request_facts import RequestFacts
from proxy.telemetry.request_log import log_request

ATTEMPTS = 2
CLIENT_LEFT = 499  # nginx's status for a client that closed the connection first
OK = "ok"
LEFT = "client_left"
ANYONE = ""  # the client's name where no keys are configured
LAST_WORDS_S = 2  # to write the error event of a stream that was cut, and to close

log = structlog.get_logger()


class Exchange:
    def __init__(
        self,
        gateway: Gateway,
        endpoint: Endpoint,
        request_id: str,
        headers: Mapping[str, str],
        task: "asyncio.Task[Any]",
    ) -> None:
        """Args: request_id: the client's of the headers, or a new one; headers: of the client, by their names in small
        letters; task: the one that calls this, and `close`.
        """
        self._gateway = gateway
        self._task = task
        self._endpoint = endpoint
        self.request_id = request_id
        self._headers = headers
        self._span = gateway.tracing.start(f"POST {endpoint.path}", headers)
        self._facts = RequestFacts(time.monotonic())
        self._deadlines = _deadlines(gateway, self._facts.arrived_at)
        self._client = ANYONE
        self._model: str | None = None
        self._prompt: Prompt | None = None
        self._ticket: Ticket | None = None
        self._attempt: Attempt | None = None  # the last
        self._answer: Answer | None = None
        self._give_sign: Callable[[bytes], None] | None = None
        self._waiting_since: float | None = None  # for a stream's first token
        self._sign_given_at = 0.0
        self._counted = Counted(self._facts)
        self._abort: ProxyError | None = None
        self._open = True
        gateway.metrics.in_flight.inc()
        gateway.being_served.add(self)

    @property
    def headers(self) -> dict[str, str]:
        """What is known so far; empty while there was no try."""
        return self._facts.headers()

    @property
    def ends_by(self) -> float:
        """In the running loop's time: a client that has not taken its answer until then is left."""
        return self._deadlines.total.at + LAST_WORDS_S

    @property
    def silent_since(self) -> float | None:
        since = self._waiting_since if self._answer is None else self._answer.waiting_since
        return None if since is None else max(since, self._sign_given_at)

    def give_sign(self) -> None:
        if self._give_sign is not None:
            self._sign_given_at = self._gateway.loop.time()
            self._give_sign(self._endpoint.sign_of_life)

    async def answer(self, read_body: Callable[[], Awaitable[bytes]], give_sign: Callable[[bytes], None]) -> Answer:
        """Both legs for the client's body; returns when the consumer's first chunk is here.

        Args: give_sign: writes something that clients skip, and before it a stream's head if none is out yet.
        Raises: ProxyError: what the client is to be told instead.
        """
        self._give_sign = give_sign
        try:
            if self._gateway.draining:
                raise ShuttingDown
            keys = self._gateway.settings.client_keys
            self._client = keys.name_of(self._headers.get("authorization"), self._headers.get("x-api-key")) or ANYONE
            self._answer = await self._try_routes(await read_body())
        except asyncio.CancelledError:
            if self._abort is None or self._task.uncancel():
                raise
            raise self._abort from None
        self._facts.moved(self._answer.transfer.known)
        self._answer.first = await self._counted.take(self._answer.first, self._attempt)
        self._gateway.metrics.answered(self._facts, self._endpoint.path, self._answer.is_stream)
        return self._answer

    async def stream(self, write: Callable[[bytes, bool], Awaitable[None]]) -> None:
        """Writes the client's stream; back-pressure is the consumer's, because nothing is read ahead.

        Args: write: takes some whole events, and whether more follow.
        """
        if self._answer is None:
            raise RuntimeError("stream() comes after answer()")
        status, outcome = self._answer.status, LEFT
        failure: ProxyError | None = None
        if not self._answer.at_end:
            self._answer.limit(self._gateway.settings.proxy_token_timeout_s, self._deadlines.total)
        unwritten = self._answer.first
        try:
            try:
                while unwritten and not self._answer.at_end:
                    await write(unwritten, True)
                    unwritten = b""
                    unwritten = await self._next_events(self._answer)
                if unwritten:
                    await self._answer.next_events()
                outcome = OK
                if self._attempt is not None and (failure := self._answer.reported_failure) is not None:
                    outcome = code(failure)  # the client has vLLM's own words already
                    self._attempt.broken(failure)
                last = self._facts.comment(
                    request_id=self.request_id,
                    second_token_ms=self._facts.second_token_ms,
                    duration_ms=self._duration_ms(),
                )
            except ProxyError as error:
                failure = self._abort or error
                outcome = code(failure)
                if self._attempt is not None and failure is error:
                    self._attempt.broken(error)
                last = self._endpoint.failed(http_error(failure).body)
            await write(unwritten + last, False)
        finally:
            if outcome == LEFT and (cut := self._abort or self._answer.cut) is not None:  # while it did not read
                outcome = code(cut)
            self.close(status, outcome, failure)

    def close(self, status: int, outcome: str, failure: ProxyError | None = None) -> None:
        """Settles everything; the first call counts."""
        if not self._open:
            return
        self._open = False
        self._give_sign = None  # its owner asks for the id: the two would keep each other for the garbage collector
        if self._answer is not None:
            self._answer.close()
        if (attempt := self._attempt) is not None:
            if self._answer is not None:
                self._gateway.metrics.moved(self._facts)
            if outcome == OK and self._answer is not None:
                attempt.finish()
                if self._model is not None and self._prompt is not None:
                    self._counted.teach(self._gateway.estimate, self._model, self._prompt, self._answer, attempt)
            else:
                attempt.cancel()
        if self._ticket is not None:
            self._ticket.leave()
        self._gateway.being_served.discard(self)
        metrics = self._gateway.metrics
        metrics.in_flight.dec()
        duration_s = time.monotonic() - self._facts.arrived_at
        metrics.ended(self._endpoint.path, status, outcome, self._client, duration_s)
        asked = Asked(self.request_id, self._client, self._endpoint.path, self._model)
        ended = Ended(status, outcome, str(failure) if failure else None, self._counted.events, self._counted.bytes)
        past = metrics.history.ended(asked, ended, self._facts, duration_s)
        if self._endpoint.both_legs:
            metrics.gen_ai.ended(past)
        self._span.end(self._facts, status=status, outcome=outcome, request_id=self.request_id)
        log_request(asked, ended, self._facts, duration_s, streamed=self._answer is not None and self._answer.is_stream)
        self._facts.told()

    def abort(self, error: ProxyError) -> None:
        """The client is told `error` at the next possible moment."""
        self._abort = error
        if self._answer is not None:
            self._answer.close()
        else:
            self._task.cancel()

    async def _try_routes(self, raw: bytes) -> Answer:
        gateway = self._gateway
        request = CompletionRequest(raw, self._endpoint)
        legs_headers = self._take_id(request)
        self._model = model = request.model or gateway.fleet.model_left_out()
        self._facts.stream, self._facts.parameter = request.stream, request.unsplittable
        if request.stream and self._endpoint.both_legs:
            self._waiting_since = gateway.loop.time()
        bound_sequences(request.body, gateway.settings.proxy_max_prompts)
        path, estimate = self._endpoint.path, gateway.estimate
        body = request.body if request.model else request.body | {"model": model}  # they share prefixes
        self._prompt = prompt = read_prompt(body, path, estimate.bytes_per_token(model))
        output = estimate.output_tokens(model, request.output_limit)
        splittable = request.unsplittable is None and self._endpoint.both_legs
        demand = Demand(model, prompt, output, splittable, self._endpoint.takes_rank)
        if self._endpoint.both_legs:
            self._span.asks(path, model, request.stream, request.output_limit)
        job = Job(request, self._endpoint, prompt, legs_headers, self._deadlines, self._task, self._span)
        self._ticket = await self._admitted(prompt.tokens + output, job.deadlines.first_token)
        avoid: set[str] = set()
        failure: LegFailed | None = None
        while True:
            try:
                route = gateway.route(demand, avoid)
            except (NoInstance, ModelNotFound) as nobody:
                raise (failure or nobody) from None
            if failure is not None:
                gateway.metrics.retries.labels(failure.role).inc()
            self._attempt = attempt = Attempt(gateway, job, route)
            self._facts.tried(attempt.facts)
            gateway.metrics.chosen(self._facts)
            try:
                return await attempt.answer()
            except LegFailed as error:
                log.warning("leg failed", request_id=self.request_id, **self._facts.dispatch, error=str(error))
                # An engine that has died takes those beside it along, so their answers are one.
                if isinstance(error, InstanceError) and not attempt.failed & gateway.fleet.engines_beside(avoid):
                    error.after(failure)
                if self._facts.attempts == ATTEMPTS:
                    raise
                failure = error
                avoid |= attempt.failed

    def _take_id(self, request: CompletionRequest) -> dict[str, str]:
        """The id in the body counts where no header has one. Returns: the headers of both legs.

        An id that cannot be in a header is in none: vLLM finds it in the body, and no header would win over it.
        """
        named: str | None = request.request_id
        headers: dict[str, str] = {}
        if named is not None and self._headers.get("x-request-id") != self.request_id:
            if not fits(named):
                return headers
            self.request_id = named
        headers["X-Request-Id"] = self.request_id
        return headers

    async def _admitted(self, tokens: int, deadline: Deadline) -> Ticket:
        if (ticket := self._gateway.admission.enter_at_once(tokens)) is not None:
            return ticket  # without a timer, which is most of what this costs
        try:
            async with asyncio.timeout_at(deadline.at):
                return await self._gateway.admission.enter(tokens)
        except TimeoutError as error:
            raise deadline.passed() from error

    async def _next_events(self, answer: Answer) -> bytes:
        events = await answer.next_events()
        if self._facts.second_token_s is None:
            self._facts.second_token()
        if answer.transfer.known is not self._facts.transfer:
            self._facts.moved(answer.transfer.known)
        return await self._counted.take(events, self._attempt)

    def _duration_ms(self) -> float:
        return round(1000 * (time.monotonic() - self._facts.arrived_at), 1)


def _deadlines(gateway: Gateway, arrived_at: float) -> Deadlines:
    first, total = gateway.settings.proxy_first_token_timeout_s, gateway.settings.proxy_request_timeout_s
    whole = Deadline(arrived_at + total, total, "The request")
    # No first token is waited for beyond the end of the whole request.
    return Deadlines(Deadline(arrived_at + first, first, "The first token") if first < total else whole, whole)
