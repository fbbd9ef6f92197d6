"""Talks to an OpenAI-compatible server and says when each event of a streamed answer arrived.

Locust's own `FastHttpUser` is not used: it collects 1,024 bytes before it hands anything on. With one token every 50 ms
it reported a first token sent at 300 ms as arriving at 999 ms, with the next twelve. geventhttpclient, which is
underneath it, returns a line as soon as it is there and tells an answer that ended from a connection that broke.
"""

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from geventhttpclient import HTTPClient
from geventhttpclient.response import HTTPParseError, HTTPSocketPoolResponse
from geventhttpclient.url import URL

from loadtest.completion.sse import Event, EventParser
from loadtest.completion.stamped_socket import StampedConnection
from loadtest.errors import (
    ConnectionFailed,
    HttpError,
    StreamCutOff,
    TimedOut,
    UnexpectedAnswer,
    openai_message,
)


class StreamedAnswer:
    """Iterating gives (`time.perf_counter()` at arrival, event); comment: the last comment so far, or None."""

    def __init__(self, response: HTTPSocketPoolResponse, arrived_at: Callable[[], float]) -> None:
        """Args: arrived_at: when what the response has read last was there."""
        self._response = response
        self._arrived_at = arrived_at
        self._parser = EventParser()

    @property
    def headers(self) -> Mapping[str, str]:
        return _headers(self._response)

    @property
    def comment(self) -> str | None:
        return self._parser.comment

    def __iter__(self) -> Iterator[tuple[float, Event]]:
        while line := self._response.readline(b"\n"):
            arrived_at = self._arrived_at()
            for event in self._parser.feed(line):
                yield arrived_at, event


class CompletionClient:
    """A keep-alive connection to one server, for one request at a time.

    Args: base_url: without `/v1`; timeout_s: longest silence on the connection; api_key: sent as bearer token.
    """

    def __init__(self, base_url: str, timeout_s: float, api_key: str | None = None) -> None:
        self._path = URL(base_url).path.rstrip("/")
        self._timeout_s = timeout_s
        self._headers = {"Content-Type": "application/json"}
        if api_key is not None:
            self._headers["Authorization"] = f"Bearer {api_key}"
        self._http = HTTPClient.from_url(base_url, connection_timeout=timeout_s, network_timeout=timeout_s)
        self._arrived_at: Callable[[], float] = time.perf_counter
        if not self._http.ssl:  # TLS reads the socket itself, and would lose the stamps
            connection = StampedConnection(self._http.host, self._http.port or 80, timeout_s)
            self._http._connection_pool, self._arrived_at = connection, connection.arrived_at

    def close(self) -> None:
        self._http.close()

    def served_model(self) -> str:
        """The first model that the server lists. Raises: RequestFailed."""
        response = self._send("GET", "/v1/models")
        with self._failures_of(response):
            body = response.read().decode("utf-8", "replace")
        try:
            return str(json.loads(body)["data"][0]["id"])
        except (ValueError, KeyError, TypeError, IndexError) as error:
            raise UnexpectedAnswer(f"/v1/models lists no model: {body[:100]}") from error

    def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """The JSON object with which the server answers `body`. Raises: RequestFailed."""
        response = self._send("POST", path, json.dumps(body).encode())
        with self._failures_of(response):
            text = response.read().decode("utf-8", "replace")
        try:
            answer = json.loads(text)
        except ValueError as error:
            raise UnexpectedAnswer(f"{path} answers no JSON: {text[:100]}") from error
        if not isinstance(answer, dict):
            raise UnexpectedAnswer(f"{path} answers no JSON object: {text[:100]}")
        return answer

    @contextmanager
    def stream(self, path: str, body: bytes) -> Iterator[StreamedAnswer]:
        """Send the request and read its answer within the `with`. Raises: RequestFailed."""
        response = self._send("POST", path, body)
        with self._failures_of(response):
            content_type = str(response.get("content-type") or "")
            if not content_type.startswith("text/event-stream"):
                raise UnexpectedAnswer(f"content type {content_type!r} instead of text/event-stream")
            yield StreamedAnswer(response, self._arrived_at)

    def _send(self, method: str, path: str, body: bytes = b"") -> HTTPSocketPoolResponse:
        try:
            response = self._http.request(method, self._path + path, body=body, headers=self._headers)
        except TimeoutError as error:
            raise TimedOut(f"no answer for {self._timeout_s:g} s") from error
        except (OSError, HTTPParseError) as error:
            raise ConnectionFailed(getattr(error, "strerror", None) or str(error)) from error
        if response.status_code != 200:
            with self._failures_of(response):
                message = openai_message(response.read().decode("utf-8", "replace"))
                raise HttpError(response.status_code, message, _headers(response))
        return response

    @contextmanager
    def _failures_of(self, response: HTTPSocketPoolResponse) -> Iterator[None]:
        try:
            yield
        except TimeoutError as error:
            raise TimedOut(f"nothing arrived for {self._timeout_s:g} s") from error
        except (OSError, HTTPParseError) as error:
            raise StreamCutOff(f"connection broke: {getattr(error, 'strerror', None) or error}") from error
        finally:
            response.release()  # keeps the connection if the answer was read to its end, closes it otherwise


def _headers(response: HTTPSocketPoolResponse) -> Mapping[str, str]:
    return {name.lower(): value for name, value in response.items()}
