"""Talks to an OpenAI-compatible server and says when each event of a streamed answer arrived.

Locust's own `FastHttpUser` is not used: it collects 1,024 bytes before it hands anything on. With one token every 50 ms
it reported a first token sent at 300 ms as arriving at 999 ms, with the next twelve. geventhttpclient, which is
underneath it, returns a line as soon as it is there and tells an answer that ended from a connection that broke.
"""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from geventhttpclient import HTTPClient
from geventhttpclient.response import HTTPParseError, HTTPSocketPoolResponse
from geventhttpclient.url import URL

from loadtest.errors import (
    ConnectionFailed,
    HttpError,
    StreamCutOff,
    TimedOut,
    UnexpectedAnswer,
    openai_message,
)
from loadtest.sse import Event, EventParser
from loadtest.workload import CompletionRequest


class CompletionClient:
    """One user's keep-alive connection to one server.

    Args: base_url: without `/v1`; timeout_s: longest silence on the connection; api_key: sent as bearer token.
    """

    def __init__(self, base_url: str, timeout_s: float, api_key: str | None = None) -> None:
        self._path = URL(base_url).path.rstrip("/")
        self._timeout_s = timeout_s
        self._headers = {"Content-Type": "application/json"}
        if api_key is not None:
            self._headers["Authorization"] = f"Bearer {api_key}"
        self._http = HTTPClient.from_url(base_url, connection_timeout=timeout_s, network_timeout=timeout_s)

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
        response = self._send("POST", path, json.dumps(body))
        with self._failures_of(response):
            text = response.read().decode("utf-8", "replace")
        try:
            answer = json.loads(text)
        except ValueError as error:
            raise UnexpectedAnswer(f"{path} answers no JSON: {text[:100]}") from error
        if not isinstance(answer, dict):
            raise UnexpectedAnswer(f"{path} answers no JSON object: {text[:100]}")
        return answer

    def stream(self, request: CompletionRequest) -> Iterator[tuple[float, Event]]:
        """Send the request; yields: (`time.perf_counter()` at arrival, event). Raises: RequestFailed."""
        response = self._send("POST", request.path, json.dumps(request.body))
        with self._failures_of(response):
            content_type = str(response.get("content-type") or "")
            if not content_type.startswith("text/event-stream"):
                raise UnexpectedAnswer(f"content type {content_type!r} instead of text/event-stream")
            parser = EventParser()
            while line := response.readline(b"\n"):
                arrived_at = time.perf_counter()
                for event in parser.feed(line):
                    yield arrived_at, event

    def _send(self, method: str, path: str, body: str = "") -> HTTPSocketPoolResponse:
        try:
            response = self._http.request(method, self._path + path, body=body, headers=self._headers)
        except TimeoutError as error:
            raise TimedOut(f"no answer for {self._timeout_s:g} s") from error
        except (OSError, HTTPParseError) as error:
            raise ConnectionFailed(getattr(error, "strerror", None) or str(error)) from error
        if response.status_code != 200:
            with self._failures_of(response):
                body_text = response.read().decode("utf-8", "replace")
                raise HttpError(response.status_code, openai_message(body_text))
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
