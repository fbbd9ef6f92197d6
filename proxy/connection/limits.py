"""What a connection may cost: uvicorn's HTTP protocol with bounds on what a client can send, hold and leave unfinished.

- A request's head has a bound on bytes (431) and on time (408), also for a client that sends empty lines for ever.
- A body that nobody will read is not read: an answer that comes before its end closes the connection. So the
  application, which bounds a body's size and time, decides by answering.
- The bodies of all requests being served have a bound together. Beyond it the largest unfinished one is refused (429).
- The number of connections has a bound. Beyond it the one that has been without a complete request for longest makes
  room, so that a thousand silent or slow clients do not keep a busy one out; if all are being served: 503.
- One request may be sent ahead while another is answered; a connection with more ends with the last of those two.
- A client that ends its side of the connection after its request gets its answer; one that has left is found out.
- `Upgrade` is ignored.
"""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from proxy.connection.answer_side import AnswerSide
from proxy.connection.half_closed import Probes
from proxy.connection.http10 import answer_without_chunks
from proxy.connection.refusal import refusal
from proxy.connection.socket_limits import SocketLimits
from proxy.connection.upgrade import without_upgrade
from proxy.errors import RETRY_AFTER_S, BadRequest, HeadTooLarge, HeadTooSlow, ProxyError, TooBusy, TooManyConnections
from proxy.http.cors import Cors

# A client that is still sending can read why it is refused before the connection is reset under its hands.
LINGER_S = 1.0

# Under this name of the ASGI scope's extensions the application finds the `LimitedProtocol` that a request came over.
CONNECTION = "pd_proxy.connection"


class Sockets:
    """What the connections of one process share; `incomplete`, oldest first: those that owe a complete request."""

    def __init__(self, limits: SocketLimits, cors: Cors) -> None:
        self.limits = limits
        self.cors = cors
        self.incomplete: dict[LimitedProtocol, None] = {}
        self.buffered_bytes = 0


def limited_protocol(limits: SocketLimits, cors: Cors) -> Any:
    """For `uvicorn.Config(http=…)`; can be pickled, as uvicorn does for its workers."""
    return partial(LimitedProtocol, Sockets(limits, cors))


class LimitedProtocol(HttpToolsProtocol):
    """in_body: the newest request's is still to come. when_lost: called when the client has left, until it is unset;
    give_sign: writes something between the pieces of an answer that is under way, while it is set.
    """

    def __init__(self, sockets: Sockets, **uvicorns: Any) -> None:
        super().__init__(**uvicorns)
        self.lost = False
        self.in_body = False
        self.when_lost: Callable[[], object] | None = None
        self.give_sign: Callable[[], object] | None = None
        self._sockets = sockets
        self._limits = sockets.limits
        self._head_timer: asyncio.TimerHandle | None = None
        self._probes: Probes | None = None  # once the client has ended its side of the connection
        self._head_began = False
        self._head_bytes = 0
        self._steps = 0  # heads, pieces of bodies and messages that have come to an end
        self._stepless_bytes = 0
        self._buffered_bytes = 0
        self._upgrading = False
        self._deaf = False  # what the client sends from now on counts for nothing

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._answer_side = AnswerSide(transport, self._close_after_answer)
        if len(self.connections) > self._limits.connections:
            if not self._sockets.incomplete:
                self._deaf = True
                self._answer(TooManyConnections())
                transport.close()
                return
            next(iter(self._sockets.incomplete)).make_room()
        self._sockets.incomplete[self] = None
        self._head_timer = self.loop.call_later(self._limits.head_timeout_s, self._head_too_slow)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._deaf = True
        self._stop_head_timer()
        if self._probes is not None:
            self._probes.stop()
        self._unset_keepalive_if_required()
        self._sockets.incomplete.pop(self, None)
        self._release_body()
        self.lost = True
        if self.when_lost is not None:
            self.when_lost()

    def eof_received(self) -> bool:  # type: ignore[override]
        """Whether the client can still be written to: it has sent its last byte, and may wait for its answer."""
        if self.cycle is None or self.cycle.response_complete or self.in_body:
            return False
        self.cycle.keep_alive = False
        self._probes = Probes(self.loop, self._probe)
        return True

    def _probe(self) -> None:
        if self.transport.is_closing():
            return
        if not self._answer_side.begun:
            self._answer_side.send_ahead()
        elif self.give_sign is not None:
            self.give_sign()

    def make_room(self) -> None:
        """Another connection needs this one's place."""
        self._sockets.incomplete.pop(self, None)
        if self._head_began or self.in_body:
            self._refuse(TooManyConnections())
        self.transport.close()

    def data_received(self, data: bytes) -> None:
        if self._deaf:
            return
        self._unset_keepalive_if_required()
        steps = self._steps
        try:
            self._feed(data)
        except httptools.HttpParserError as error:
            cause = error.__context__
            self._refuse(cause if isinstance(cause, ProxyError) else BadRequest("This is not an HTTP request."))
            return
        if self._steps != steps:
            self._stepless_bytes = 0
        else:  # a head, or what may stand between the chunks of a body and after them
            self._stepless_bytes += len(data)
            if self._stepless_bytes > self._limits.head_bytes:
                self._refuse(HeadTooLarge(self._limits.head_bytes))
                return
        if self.in_body or self._is_answering():
            self._stop_head_timer()
        elif self._head_timer is None:
            self._head_timer = self.loop.call_later(self._limits.head_timeout_s, self._head_too_slow)

    def on_message_begin(self) -> None:
        if self.pipeline:
            raise BadRequest("More than one request was sent ahead.")
        super().on_message_begin()
        self._head_began = True
        self._head_bytes = 0

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        self._count_head(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        super().on_header(name, value)
        self._count_head(len(name) + len(value))

    def on_headers_complete(self) -> None:
        if self.parser.should_upgrade():
            if self.parser.get_method() == b"CONNECT":
                raise BadRequest("CONNECT is not supported.")
            self._upgrading = True
            return
        self.scope["extensions"] = {CONNECTION: self}  # type: ignore[dict-item]
        super().on_headers_complete()
        self.cycle.transport = self._answer_side  # type: ignore[assignment]
        if (origin := dict(self.headers).get(b"origin")) is not None:
            self.cycle.default_headers = [*self.cycle.default_headers, *self._sockets.cors.headers(origin)]
        if self.scope["http_version"] == "1.0":
            answer_without_chunks(self.cycle, self.parser.should_keep_alive())
        self._head_began = False
        self.in_body = True
        self._steps += 1

    def on_body(self, body: bytes) -> None:
        super().on_body(body)
        self._steps += 1
        self._buffered_bytes += len(body)
        self._sockets.buffered_bytes += len(body)
        if self._sockets.buffered_bytes > self._limits.buffered_bytes:
            largest = max(self._sockets.incomplete, key=lambda each: each._buffered_bytes, default=self)
            too_busy = TooBusy("Too many large requests are being served.", RETRY_AFTER_S)
            if largest is self:
                raise too_busy
            largest._refuse(too_busy)

    def hold(self, more: int) -> None:
        """So many bytes were made of the body, and count as it does.

        Raises: TooBusy.
        """
        self._buffered_bytes += more
        self._sockets.buffered_bytes += more
        if self._sockets.buffered_bytes > self._limits.buffered_bytes:
            raise TooBusy("Too many large requests are being served.", RETRY_AFTER_S)

    def on_message_complete(self) -> None:
        if self._upgrading:
            return
        super().on_message_complete()
        if not self.pipeline:
            self.flow.resume_reading()  # a long body has paused it, and only who is read from is seen to leave
        self.in_body = False
        self._steps += 1
        self._sockets.incomplete.pop(self, None)

    def on_response_complete(self) -> None:
        self._answer_side.completed()
        super().on_response_complete()
        self._release_body()
        if self.transport.is_closing() or not self.cycle.response_complete:  # another has been sent ahead
            return
        self._sockets.incomplete[self] = None
        if self.in_body or self._deaf:
            self._deaf = True
            self._close_soon()

    def shutdown(self) -> None:
        super().shutdown()
        if self._deaf and not self._is_answering():
            self.transport.close()

    def _feed(self, data: bytes) -> None:
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._upgrading = False
            head = without_upgrade(self.parser, self.url, self.headers)
            self.parser = parser = httptools.HttpRequestParser(self)
            parser.feed_data(head + data[upgrade.args[0] :])

    def _count_head(self, more: int) -> None:
        self._head_bytes += more
        if self._head_bytes > self._limits.head_bytes:
            raise HeadTooLarge(self._limits.head_bytes)

    def _head_too_slow(self) -> None:
        self._head_timer = None
        if self._head_began:
            self._refuse(HeadTooSlow(self._limits.head_timeout_s))
        else:
            self.transport.close()

    def _is_answering(self) -> bool:
        """Whether an answer is under way, or to come, that an error must not be written into."""
        if self.cycle is None or self.cycle.response_complete:
            return False
        return not self.in_body or self.cycle.response_started or bool(self.pipeline)

    def _refuse(self, error: ProxyError) -> None:
        """Answers in place of the application, and closes; where that is about to answer, closes after it has."""
        if self._deaf:
            return
        self._deaf = True
        self._stop_head_timer()
        if self._is_answering():
            self.cycle.keep_alive = False
            return
        if self.in_body:  # the application waits for the rest
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        self._release_body()
        self._answer(error)
        self._close_soon()

    def _answer(self, error: ProxyError) -> None:
        given = dict(self.headers) if self._head_began or self.in_body else {}
        self.transport.write(refusal(error, given, self.client, self._sockets.cors))

    def _close_after_answer(self) -> None:
        if self.in_body and not self.pipeline:
            self._deaf = True
            self._close_soon()
        else:
            self.transport.close()

    def _close_soon(self) -> None:
        """What the client still sends stays in the kernel's buffers, where it is bounded."""
        self.flow.pause_reading()
        self._unset_keepalive_if_required()
        self.timeout_keep_alive_task = self.loop.call_later(LINGER_S, self.timeout_keep_alive_handler)

    def _stop_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _release_body(self) -> None:
        self._sockets.buffered_bytes -= self._buffered_bytes
        self._buffered_bytes = 0
