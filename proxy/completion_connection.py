"""A completion's way from the server to its `Exchange` and back, past Quart's request and response objects.

Quart makes two tasks, two contexts, a request and a response of each request and runs its hooks: a seventh of the CPU
time that one took. So a POST to one of ENDPOINTS is answered here, from ASGI's messages, and everything else by Quart.
"""

import asyncio
from collections.abc import Iterable, Mapping
from typing import cast

import structlog
from hypercorn.typing import ASGIReceiveCallable, ASGISendCallable
from quart.asgi import ASGIHTTPConnection

from proxy.endpoints import ENDPOINTS, Endpoint
from proxy.errors import DEFECT, BodyTooLarge, BodyTooSlow, ProxyError, code, error_body, http_error
from proxy.exchange import CLIENT_LEFT, LEFT, OK, Exchange
from proxy.gateway import Gateway
from proxy.http.content_coding import codings_of, decoded
from proxy.http.content_type import require_json
from proxy.limits import CONNECTION, LimitedProtocol
from proxy.request_id import taken_or_made

JSON = "application/json"

_ENDPOINTS = {endpoint.path: endpoint for endpoint in ENDPOINTS}

log = structlog.get_logger()


class CompletionConnection(ASGIHTTPConnection):
    """What Quart makes of each request, as its `asgi_http_class`."""

    async def __call__(self, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        endpoint = _ENDPOINTS.get(self.scope["path"]) if self.scope["method"] == "POST" else None
        if endpoint is None:
            await super().__call__(receive, send)
            return
        # The first of a name counts, as it does for Quart.
        headers = {
            name.decode("latin-1"): value.decode("latin-1") for name, value in reversed([*self.scope["headers"]])
        }
        await self._complete(endpoint, headers, receive, send)

    async def _complete(
        self, endpoint: Endpoint, headers: Mapping[str, str], receive: ASGIReceiveCallable, send: ASGISendCallable
    ) -> None:
        gateway: Gateway = self.app.extensions["gateway"]
        connection = cast("LimitedProtocol", (self.scope["extensions"] or {})[CONNECTION])
        task = asyncio.current_task(gateway.loop)
        if task is None:
            raise RuntimeError("a request is answered by a task")
        exchange = Exchange(gateway, endpoint, taken_or_made(headers.get("x-request-id", "")), headers, task)

        async def whole_body() -> bytes:
            require_json(headers.get("content-type"))
            codings = codings_of(self.scope["headers"]) if "content-encoding" in headers else ()
            body = await self._body(connection, headers, receive)
            connection.when_lost = task.cancel
            if codings:
                body = await decoded(body, codings, self.app.config["MAX_CONTENT_LENGTH"], connection.hold)
            return body

        async def write(events: bytes, more: bool) -> None:
            await send({"type": "http.response.body", "body": events, "more_body": more})

        try:
            try:
                answer = await exchange.answer(whole_body)
            except ProxyError as error:
                refusal = http_error(error)
                exchange.close(refusal.status, code(error), error)
                more = {**exchange.headers, **refusal.headers, "X-Request-Id": exchange.request_id}
                await _send_whole(send, refusal.status, JSON, more.items(), endpoint.error_body(refusal.body))
                return
            except _ClientLeftEarly:
                return
            except Exception as error:
                exchange.close(500, "internal_error")
                log.error("internal error", request_id=exchange.request_id, path=endpoint.path, exc_info=error)
                body = endpoint.error_body(error_body(500, DEFECT, "internal_error"))
                await _send_whole(send, 500, JSON, [("X-Request-Id", exchange.request_id)], body)
                return
            shown = {**exchange.headers, "X-Request-Id": exchange.request_id}
            if not answer.is_stream:
                exchange.close(answer.status, OK)
                await _send_whole(send, answer.status, answer.content_type, shown.items(), answer.first)
                return
            await _send_head(send, answer.status, answer.content_type, shown.items())
            end = None if answer.at_end else gateway.loop.call_at(exchange.ends_by, connection.transport.abort)
            try:
                await exchange.stream(write)
            finally:
                if end is not None:
                    end.cancel()
        except asyncio.CancelledError:
            if not connection.lost:
                raise
        finally:
            connection.when_lost = None
            exchange.close(CLIENT_LEFT, LEFT)  # however it left, unless the request had its end

    async def _body(
        self, connection: LimitedProtocol, headers: Mapping[str, str], receive: ASGIReceiveCallable
    ) -> bytes:
        most, seconds = self.app.config["MAX_CONTENT_LENGTH"], self.app.config["BODY_TIMEOUT"]
        if not connection.in_body:
            return await _read(receive, headers, most)  # without a timer, which is most of what this costs
        try:
            async with asyncio.timeout(seconds):
                return await _read(receive, headers, most)
        except TimeoutError as error:
            raise BodyTooSlow(f"The body did not arrive within {seconds} s.") from error


class _ClientLeftEarly(Exception):
    """In the middle of its body."""


async def _read(receive: ASGIReceiveCallable, headers: Mapping[str, str], most: int | None) -> bytes:
    """Raises: BodyTooLarge: before it is read, when it says so itself; _ClientLeftEarly."""
    declared = headers.get("content-length", "")
    if most is not None and declared.isdecimal() and int(declared) > most:
        raise BodyTooLarge(most)
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] != "http.request":
            raise _ClientLeftEarly
        piece = message["body"]
        if most is not None and len(body) + len(piece) > most:
            body.clear()  # the error's traceback refers to it
            raise BodyTooLarge(most)
        if not message["more_body"]:
            return bytes(body + piece) if body else piece
        body += piece


async def _send_head(
    send: ASGISendCallable, status: int, content_type: str, headers: Iterable[tuple[str, str]]
) -> None:
    lines = [(b"content-type", content_type.encode("latin-1"))]
    lines += [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers]
    await send({"type": "http.response.start", "status": status, "headers": lines, "trailers": False})


async def _send_whole(
    send: ASGISendCallable, status: int, content_type: str, headers: Iterable[tuple[str, str]], body: bytes
) -> None:
    await _send_head(send, status, content_type, (("Content-Length", str(len(body))), *headers))
    await send({"type": "http.response.body", "body": body, "more_body": False})
