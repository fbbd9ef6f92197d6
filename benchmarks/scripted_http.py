"""The HTTP side of a scripted server whose own lateness must be small: one request after the other on a connection.

No framework, because what it takes at each event would be a part of the delays that a benchmark measures.
"""

import asyncio
from abc import ABC, abstractmethod
from typing import cast

import httptools

END = b"0\r\n\r\n"  # of a chunked answer
BACKLOG = 4096


def chunk(content: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(content), content)


class Connection(asyncio.Protocol, ABC):
    """`timer`: of what is to be written next; it ends with the connection."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.timer: asyncio.TimerHandle | None = None
        self.transport: asyncio.Transport
        self._parser = httptools.HttpRequestParser(self)
        self._path = b""
        self._body: list[bytes] = []

    @abstractmethod
    def answer(self, method: bytes, path: bytes, body: bytes) -> None:
        """Write the answer to one request, or begin to."""

    def write_whole(self, body: bytes, status: bytes = b"200 OK") -> None:
        head = b"HTTP/1.1 %b\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % (status, len(body))
        self.transport.write(head + body)

    # What asyncio calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's own class is none of asyncio's

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def connection_lost(self, error: Exception | None) -> None:
        if self.timer is not None:
            self.timer.cancel()
        del self._parser  # it refers to this object, and nothing collects cycles here

    # What httptools calls

    def on_url(self, path: bytes) -> None:
        self._path, self._body = path, []

    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_message_complete(self) -> None:
        self.answer(self._parser.get_method(), self._path, b"".join(self._body))
