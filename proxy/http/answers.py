"""Answers as ASGI's messages: whole ones, and event streams."""

from collections.abc import Callable, Coroutine, Iterable
from typing import Any

from hypercorn.typing import ASGISendCallable
from uvicorn.protocols.http.flow_control import FlowControl

JSON = "application/json"
TEXT = "text/plain; charset=utf-8"
EVENTS = "text/event-stream; charset=utf-8"
# nginx, and those who learned from it, pass each event on at once; caches keep out.
_UNBUFFERED = (("X-Accel-Buffering", "no"), ("Cache-Control", "no-cache"))

Headers = Iterable[tuple[str, str]]


class CompletionAnswer:
    """Events or a whole answer; once a sign of life had to go out, and the head with it, only events.

    Args: request_id: asked when the head goes out, because the body may name it.
    """

    def __init__(self, flow: FlowControl, send: ASGISendCallable, request_id: Callable[[], str]) -> None:
        self._begun = False
        self._flow = flow
        self._send = send
        self._request_id = request_id

    def status(self, wanted: int) -> int:
        """The one that the client gets or has got."""
        return 200 if self._begun else wanted

    async def whole(
        self, status: int, content_type: str, headers: Headers, body: bytes, as_events: Callable[[], bytes]
    ) -> None:
        if self._begun:
            await self.write(as_events(), False)
        else:
            await send_whole(self._send, status, content_type, (*headers, ("X-Request-Id", self._request_id())), body)

    async def begin(self, content_type: str = EVENTS, headers: Headers = ()) -> None:
        if not self._begun:
            self._begun = True
            lines = (*headers, ("X-Request-Id", self._request_id()), *_UNBUFFERED)
            await _send_head(self._send, 200, content_type, lines)

    async def write(self, events: bytes, more: bool) -> None:
        await self._send({"type": "http.response.body", "body": events, "more_body": more})

    def give_sign(self, sign: bytes) -> None:
        """From outside of the request's task; a client that does not take what was written is not waiting for us."""
        if not self._flow.write_paused:
            _at_once(self._sign(sign))

    async def _sign(self, sign: bytes) -> None:
        await self.begin()
        await self.write(sign, True)


async def send_whole(send: ASGISendCallable, status: int, content_type: str, headers: Headers, body: bytes) -> None:
    await _send_head(send, status, content_type, (("Content-Length", str(len(body))), *headers))
    await send({"type": "http.response.body", "body": body, "more_body": False})


async def _send_head(send: ASGISendCallable, status: int, content_type: str, headers: Headers) -> None:
    lines = [(b"content-type", content_type.encode("latin-1"))]
    lines += [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers]
    await send({"type": "http.response.start", "status": status, "headers": lines, "trailers": False})


def _at_once(sending: Coroutine[Any, Any, None]) -> None:
    """uvicorn's `send` waits for nothing while writing is not paused."""
    try:
        sending.send(None)
    except StopIteration:
        return
    raise RuntimeError("a sign of life was not written at once")
