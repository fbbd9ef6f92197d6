"""Answers to HTTP/1.0, which knows no chunks: the end of the connection ends a body whose length is not said.

uvicorn looks at the version only to close the connection. nginx's `proxy_pass` without further settings asks in
HTTP/1.0, and `ab`.
"""

from functools import partial

from uvicorn._types import ASGISendEvent, HTTPResponseStartEvent
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle


def answer_without_chunks(cycle: RequestResponseCycle, keep_alive: bool) -> None:
    """Before `cycle` has begun to answer. `keep_alive`: the client has asked for it, and is told if it is so."""
    cycle.keep_alive = keep_alive
    cycle.waiting_for_100_continue = False  # neither does it know interim answers
    cycle.send = partial(_send, cycle)  # type: ignore[method-assign]


async def _send(cycle: RequestResponseCycle, message: ASGISendEvent) -> None:
    if message["type"] == "http.response.start":
        message = _head(cycle, message)
    elif message["type"] == "http.response.body":
        cycle.expected_content_length = len(message.get("body", b""))  # which uvicorn compares with this piece
    await RequestResponseCycle.send(cycle, message)


def _head(cycle: RequestResponseCycle, message: HTTPResponseStartEvent) -> HTTPResponseStartEvent:
    cycle.chunked_encoding = False
    headers = list(message.get("headers", ()))
    names = {name.lower() for name, _ in headers}
    ends_by_itself = b"content-length" in names or cycle.scope["method"] == "HEAD"
    cycle.keep_alive = cycle.keep_alive and ends_by_itself and b"connection" not in names
    if cycle.keep_alive:
        headers.append((b"connection", b"keep-alive"))
    return {**message, "headers": headers}
