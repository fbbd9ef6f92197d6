"""One request to one instance: the prefill leg's answer stays here, the decode leg's answer is the client's.

Both turn whatever can happen on the wire into the errors of `proxy.errors`. Cancelling the coroutine, or closing the
answer, closes the connection, which is how vLLM learns that nobody waits any more.
"""

import asyncio
import json
from collections.abc import Mapping
from typing import NamedTuple

import aiohttp

from proxy.errors import AnswerStalled, AnswerUnfinished, DeadlinePassed, InstanceError, ProxyError
from proxy.exchange import sse
from proxy.instances.instance_session import open_session, pinned
from proxy.request.endpoints import Endpoint
from proxy.settings import ProxySettings
from proxy.verdict import evidence
from proxy.verdict.circuit import Signs
from stack.instances.record import Instance

# vLLM closes idle connections after 5 s (VLLM_HTTP_TIMEOUT_KEEP_ALIVE). A request sent at that moment would fail, and a
# POST cannot be repeated blindly, so the pool lets go first.
IDLE_CONNECTION_S = 3.0
EVENT_STREAM = "text/event-stream"
ERROR_OBJECT = b'{"error"'
ERROR_EVENT = b"data: " + ERROR_OBJECT  # after it vLLM ends a stream as a whole one
ENDING = 4  # events, from the end: it and the end's own, and comments between them


class Deadline(NamedTuple):
    """A point in the running loop's time, and how to name it when it has passed."""

    at: float
    limit_s: float
    what: str

    def passed(self) -> DeadlinePassed:
        return DeadlinePassed(self.what, self.limit_s)


class Call(NamedTuple):
    """What is posted where; `signs` learns when something of a stream came."""

    instance: Instance
    endpoint: Endpoint
    body: bytes
    headers: Mapping[str, str]
    signs: Signs


class Answer:
    """A consumer's answer of which `first` has arrived: all of it, or for a stream its first whole events.

    cut: why it was ended here before its own end.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        call: Call,
        response: aiohttp.ClientResponse,
        first: bytes,
        boundary: sse.EventBoundary,
    ) -> None:
        self.status = response.status
        self.content_type = response.headers.get("Content-Type", "application/json")
        self.is_stream = response.content_type == EVENT_STREAM
        self.transfer = sse.TransferFacts(response.headers.get("X-PD-Transfer-Facts"))
        self.first = self.transfer.taken_from(first) if self.is_stream else first
        self._earlier = b""
        self._last = first
        self._call = call
        self._response = response
        self._boundary = boundary
        self._loop = loop
        self._waiting_since: float | None = None
        self._timer: asyncio.TimerHandle | None = None
        self.cut: ProxyError | None = None

    def limit(self, between_tokens_s: float, total: Deadline) -> None:
        """From now on `next_events` ends when no event comes for so long, or when the whole answer takes too long.

        One timer for all events, which is put off when it fires too early: one for each costs more than passing it on.
        """
        now = self._loop.time()
        waiting_since = now if self._waiting_since is None else self._waiting_since  # the client may read slowly
        due = min(waiting_since + between_tokens_s, total.at)
        if due > now:
            self._timer = self._loop.call_at(due, self.limit, between_tokens_s, total)
            return
        instance, silence = self._call.instance, f"has sent no token for {between_tokens_s:g} s"
        self.cut = total.passed() if total.at <= now else AnswerStalled(instance.role, instance.instance_id, silence)
        self.close()

    @property
    def reported_failure(self) -> InstanceError | None:
        """That a stream which is over has told of: it is then its last event or the one before its end."""
        ending = sse.last_events(self._last, ENDING)
        _, event, rest = (self._earlier + self._last if ending is None else ending).rpartition(ERROR_EVENT)
        if not event:
            return None
        told = evidence.message(ERROR_OBJECT + rest.partition(b"\n\n")[0])
        instance = self._call.instance
        return InstanceError(instance.role, instance.instance_id, f"told of an error in its stream: {told}")

    @property
    def waiting_since(self) -> float | None:
        """In the loop's time: since when `next_events` has been waiting; None while it does not."""
        return self._waiting_since

    @property
    def at_end(self) -> bool:
        """Whether all of it has arrived and been taken: `next_events` then says at once whether it is whole."""
        return self._response.content.at_eof()

    async def next_events(self) -> bytes:
        """The whole events that have arrived after the last call; empty at the end of the stream.

        Raises: AnswerBroken; AnswerUnfinished: the stream ended without its last event; AnswerStalled; DeadlinePassed.
        """
        self._waiting_since = self._call.signs.at = self._loop.time()  # something has come, or this would not be called
        try:
            while chunk := await self._response.content.readany():
                events = self._boundary.whole_events(chunk)
                if not self.transfer.complete:
                    events = self.transfer.taken_from(events)
                if events:
                    self._earlier, self._last = self._last, events
                    return events
        except aiohttp.ClientError as error:
            if self.cut is not None:
                raise self.cut from error
            raise evidence.lost(self._call.instance, error) from error
        finally:
            self._waiting_since = None
        if not self._call.endpoint.is_whole(self._last):
            raise AnswerUnfinished(self._call.instance.role, self._call.instance.instance_id, "ended its stream early")
        return b""

    def close(self) -> None:
        """The last thing to be done with any answer."""
        if self._timer is not None:
            self._timer.cancel()
        if not self._response.closed:  # at its end it is
            self._response.close()


class Legs:
    """The one pooled session to all instances."""

    def __init__(self, settings: ProxySettings) -> None:
        self._loop = asyncio.get_running_loop()
        # Unbounded: waiting for a connection here would be a queue that nobody sees.
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=IDLE_CONNECTION_S)
        self._session = open_session(settings, connector)

    async def close(self) -> None:
        await self._session.close()

    async def prefill(self, call: Call) -> bytes:
        """Returns when the producer has done its part, with its answer of one token."""
        try:
            response = await self._post(call)
            try:
                body = await response.read()
            except BaseException:
                response.close()
                raise
        except aiohttp.ClientError as error:
            raise evidence.lost(call.instance, error) from error
        _check_status(call, response.status, body, response.headers.get("Retry-After"))
        return body

    async def decode(self, call: Call) -> Answer:
        """Returns with the first token of a stream, or with a whole answer; the caller closes it."""
        try:
            response = await self._post(call)
            try:
                return await self._first_chunk(call, response)
            except BaseException:
                response.close()
                raise
        except aiohttp.ClientError as error:
            raise evidence.lost(call.instance, error) from error

    def _post(self, call: Call) -> "aiohttp.client._RequestContextManager":
        headers = pinned(call.headers, call.instance)
        url = call.instance.url + call.endpoint.path
        return self._session.post(url, data=call.body, headers=headers, allow_redirects=False)

    async def _first_chunk(self, call: Call, response: aiohttp.ClientResponse) -> Answer:
        boundary = sse.EventBoundary()
        if response.status != 200 or response.content_type != EVENT_STREAM:
            body = await response.read()
            _check_status(call, response.status, body, response.headers.get("Retry-After"))
            return Answer(self._loop, call, response, body, boundary)
        seen = b""
        while chunk := await response.content.readany():
            seen += boundary.whole_events(chunk)
            data = call.endpoint.first_data(seen)
            if data is None:
                continue  # nothing yet, or only comments and what precedes the first token
            if (error := sse.error_in(data)) is not None:
                code = error.get("code")
                status = code if isinstance(code, int) and 400 <= code < 600 else 500
                _check_status(call, status, json.dumps({"error": error}).encode(), None)
            return Answer(self._loop, call, response, seen, boundary)
        raise AnswerUnfinished(call.instance.role, call.instance.instance_id, "ended its stream before the first token")


def _check_status(call: Call, status: int, body: bytes, retry_after: str | None) -> None:
    if (refused := evidence.refusal(call.instance, status, body, retry_after)) is not None:
        raise refused
