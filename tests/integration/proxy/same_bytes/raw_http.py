"""Requests as the bytes that a client writes, and answers as they come back, with no HTTP library in between."""

import http.client
import json
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tests.integration.proxy.answers import events, folded

TIMEOUT_S = 60.0


@dataclass(frozen=True)
class RawAnswer:
    """`headers`: by their names in small letters."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def content_type(self) -> str:
        return self.headers.get("content-type", "")

    @property
    def content(self) -> Any:
        """The parsed body, the folded events of a stream, or the text of anything else."""
        text = self.body.decode()
        if self.content_type.startswith("text/event-stream"):
            return folded(events(text))
        return json.loads(text) if self.content_type == "application/json" else text


def message(start: str, *headers: str, body: bytes = b"") -> bytes:
    """One request; `body` goes out as it is, and only `headers` say what it is."""
    head = "\r\n".join((start, "Host: example.test", "Connection: close", *headers))
    return f"{head}\r\n\r\n".encode("latin-1") + body


def post(path: str, body: bytes, *headers: str, content_type: str | None = "application/json") -> bytes:
    given = () if content_type is None else (f"Content-Type: {content_type}",)
    return message(f"POST {path} HTTP/1.1", *given, f"Content-Length: {len(body)}", *headers, body=body)


def get(target: str, *headers: str, method: str = "GET") -> bytes:
    return message(f"{method} {target} HTTP/1.1", *headers)


def send(url: str, data: bytes) -> RawAnswer:
    """What the server at `url` answers to these very bytes; interim answers (1xx) are read and left out."""
    host, _, port = url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), TIMEOUT_S) as connection:
        connection.sendall(data)
        response = http.client.HTTPResponse(connection, method=data.split(b" ", 1)[0].decode())
        response.begin()
        headers = {name.lower(): value for name, value in response.getheaders()}
        return RawAnswer(response.status, headers, response.read())
