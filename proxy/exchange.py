"""One client request from its body to the last byte of its answer.

Until the consumer's first chunk every failure becomes an HTTP status, or one more try on another instance. After it a
failure becomes an SSE `error` event, and the stream ends without [DONE]. However the request ends (answered, failed,
client gone, proxy stopped), `close` settles both legs, counts it and writes its one log line.
"""

import asyncio
import time
from collections.abc import AsyncIterator

import structlog

from proxy import sse
from proxy.attempt import Attempt, Deadlines
from proxy.completion_request import CompletionRequest, Endpoint
from proxy.errors import LegFailed, ModelNotFound, NoInstance, ProxyError, ShuttingDown, code, http_error
from proxy.gateway import Gateway
from proxy.legs import Answer, Deadline

ATTEMPTS = 2
CLIENT_LEFT = 499  # nginx's status for a client that closed the connection first
OK = "ok"
LEFT = "client_left"

log = structlog.get_logger()


class Exchange:
    def __init__(self, gateway: Gateway, endpoint: Endpoint, request_id: str) -> None:
        self._gateway = gateway
        self._endpoint = endpoint
        self._request_id = request_id
        self._started = time.monotonic()
        self._model: str | None = None
        self._attempt: Attempt | None = None
        self._attempts = 0
        self._answer: Answer | None = None
        self._ttft: float | None = None
        self._bytes = 0
        self._abort: ProxyError | None = None
        self._open = True
        gateway.metrics.in_flight.inc()
        gateway.being_served.add(self)
        # The client can leave at any await between here and the first byte of the answer, when no generator has
        # started whose `finally` would run. The request's task always ends.
        if task := asyncio.current_task():
            task.add_done_callback(lambda _: self._client_left())

    @property
    def headers(self) -> dict[str, str]:
        """Which pair had the last try; empty while none had."""
        return {f"X-PD-{name.replace('_', '-').title()}": value for name, value in self._dispatched().items()}

    async def answer(self, raw: bytes) -> Answer:
        """Both legs for the client's body; returns when the consumer's first chunk is here.

        Raises: ProxyError: what the client is to be told instead.
        """
        try:
            if self._gateway.draining:
                raise ShuttingDown
            request = CompletionRequest(raw, self._endpoint)
            self._model = request.model
            self._answer = await self._try_pairs(request)
        except asyncio.CancelledError:
            if self._abort is None:
                raise
            raise self._abort from None
        self._bytes = len(self._answer.first)
        if self._answer.is_stream:
            self._ttft = time.monotonic() - self._started
            self._gateway.metrics.ttft.labels(self._endpoint.path).observe(self._ttft)
        return self._answer

    async def stream(self) -> AsyncIterator[bytes]:
        """The client's stream; back-pressure is the consumer's, because nothing is read ahead."""
        if self._answer is None:
            raise RuntimeError("stream() comes after answer()")
        status, outcome, failure = self._answer.status, LEFT, None
        token_timeout, total = self._gateway.settings.proxy_token_timeout_s, self._deadlines().total
        try:
            events = self._answer.first
            while events:
                yield events
                events = await self._answer.next_events(token_timeout, total)
                self._bytes += len(events)
            outcome = OK
        except ProxyError as error:
            failure = self._abort or error
            outcome = code(failure)
            yield sse.event(http_error(failure).body)
        finally:
            self.close(status, outcome, failure)

    def close(self, status: int, outcome: str, failure: ProxyError | None = None) -> None:
        """Settles everything; the first call counts."""
        if not self._open:
            return
        self._open = False
        duration = time.monotonic() - self._started
        if self._attempt is not None:
            if outcome == OK:
                self._attempt.finish()
            else:
                self._attempt.cancel()
        self._gateway.being_served.discard(self)
        metrics = self._gateway.metrics
        metrics.in_flight.dec()
        metrics.requests.labels(self._endpoint.path, str(status), outcome).inc()
        metrics.duration.labels(self._endpoint.path).observe(duration)
        self._log(status, outcome, duration, failure)

    def abort(self, error: ProxyError) -> None:
        """The client is told `error` at the next possible moment."""
        self._abort = error
        if self._attempt is not None:
            self._attempt.cancel()

    async def _try_pairs(self, request: CompletionRequest) -> Answer:
        avoid: set[str] = set()
        failure: LegFailed | None = None
        while True:
            try:
                pair = self._gateway.fleet.choose(request.model, avoid)
            except (NoInstance, ModelNotFound) as nobody:
                raise (failure or nobody) from None
            if failure is not None:
                self._gateway.metrics.retries.labels(failure.role).inc()
            self._attempts += 1
            self._attempt = Attempt(self._gateway, request, self._endpoint, self._request_id, pair, self._deadlines())
            try:
                return await self._attempt.answer()
            except LegFailed as error:
                log.warning("leg failed", request_id=self._request_id, **self._dispatched(), error=str(error))
                if self._attempts == ATTEMPTS:
                    raise
                failure = error
                avoid |= self._attempt.failed

    def _deadlines(self) -> Deadlines:
        settings = self._gateway.settings
        first, total = settings.proxy_first_token_timeout_s, settings.proxy_request_timeout_s
        return Deadlines(
            Deadline(self._started + first, first, "The first token"),
            Deadline(self._started + total, total, "The request"),
        )

    def _client_left(self) -> None:
        self.close(CLIENT_LEFT, LEFT)

    def _dispatched(self) -> dict[str, str]:
        if self._attempt is None:
            return {}
        return {
            "producer": self._attempt.pair.producer.instance_id,
            "consumer": self._attempt.pair.consumer.instance_id,
            "transfer_id": self._attempt.transfer_id,
        }

    def _log(self, status: int, outcome: str, duration: float, error: ProxyError | None) -> None:
        log.info(
            "request",
            request_id=self._request_id,
            endpoint=self._endpoint.path,
            model=self._model,
            status=status,
            outcome=outcome,
            error=str(error) if error else None,
            **self._dispatched(),
            attempts=self._attempts,
            ttft_ms=round(self._ttft * 1000, 1) if self._ttft is not None else None,
            duration_ms=round(duration * 1000, 1),
            bytes=self._bytes,
        )
