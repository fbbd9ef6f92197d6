"""A completion's way from the server to its `Exchange` and back, past Quart's request and response objects.

Quart makes two tasks, two contexts, a request and a response of each request and runs its hooks: a seventh of the CPU
time that one took. So a POST to one of ENDPOINTS is answered here, from ASGI's messages, and everything else by Quart.
"""

import asyncio
from collections.abc import Mapping
from typing import cast

import structlog
from hypercorn.typing import ASGIReceiveCallable, ASGISendCallable
from quart.asgi import ASGIHTTPConnection

from proxy.connection.limits import CONNECTION, LimitedProtocol
from proxy.errors import DEFECT, BodyTooLarge, BodyTooSlow, ProxyError, code, error_body, http_error
from proxy.exchange.exchange import CLIENT_LEFT, LEFT, OK, Exchange
from proxy.exchange.gateway import Gateway
from proxy.http.answers import JSON, TEXT, CompletionAnswer, send_whole
from proxy.http.content_coding import codings_of, decoded
from proxy.http.content_type import require_json
from proxy.http.cors import Cors
from proxy.request.endpoints import ENDPOINTS, Endpoint
from proxy.request.request_id import taken_or_made

_ENDPOINTS = {endpoint.path: endpoint for endpoint in ENDPOINTS}

log = structlog.get_logger()


class CompletionConnection(ASGIHTTPConnection):
    """What Quart makes of each request, as its `asgi_http_class`."""

    async def __call__(self, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        endpoint = _ENDPOINTS.get(self.scope["path"]) if self.scope["method"] == "POST" else None
        if endpoint is None:
            await self._answer_other(receive, send)
            return
        await self._complete(endpoint, self._headers(), receive, send)

    def _headers(self) -> dict[str, str]:
        """The first of a name counts, as it does for Quart."""
        return {name.decode("latin-1"): value.decode("latin-1") for name, value in reversed([*self.scope["headers"]])}

    async def _answer_other(self, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        if self.scope["method"] == "OPTIONS":
            cors: Cors = self.app.extensions["cors"]
            if (preflight := cors.preflight(self._headers())) is not None:  # of any path, and without a key
                await send_whole(send, preflight.status, TEXT, preflight.headers.items(), preflight.body)
                return
        await super().__call__(receive, send)

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

        shown = CompletionAnswer(connection.flow, send, lambda: exchange.request_id)
        try:
            try:
                answer = await exchange.answer(whole_body, shown.give_sign)
            except ProxyError as error:
                refusal = http_error(error)
                exchange.close(shown.status(refusal.status), code(error), error)
                more = {**exchange.headers, **refusal.headers}.items()
                body = endpoint.error_body(refusal.body)
                await shown.whole(refusal.status, JSON, more, body, lambda: endpoint.failed(refusal.body))
                return
            except _ClientLeftEarly:
                return
            except Exception as error:
                exchange.close(shown.status(500), "internal_error")
                log.error("internal error", request_id=exchange.request_id, path=endpoint.path, exc_info=error)
                defect = error_body(500, DEFECT, "internal_error")
                await shown.whole(500, JSON, (), endpoint.error_body(defect), lambda: endpoint.failed(defect))
                return
            facts = exchange.headers.items()
            if not answer.is_stream:
                exchange.close(answer.status, OK)
                first = answer.first
                await shown.whole(answer.status, answer.content_type, facts, first, lambda: endpoint.as_events(first))
                return
            await shown.begin(answer.content_type, facts)
            connection.give_sign = exchange.give_sign
            end = None if answer.at_end else gateway.loop.call_at(exchange.ends_by, connection.transport.abort)
            try:
                await exchange.stream(shown.write)
            finally:
                if end is not None:
                    end.cancel()
        except asyncio.CancelledError:
            if not connection.lost:
                raise
        finally:
            connection.when_lost = connection.give_sign = None
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
