"""A connection as uvicorn's answers see it: an answer's head goes out together with the first piece of its body.

uvloop writes at once, so that each write is a system call here and a wake-up at the client.
"""

import asyncio
from collections.abc import Callable

INTERIM = b"HTTP/1.1 1"


class AnswerSide:
    """In place of the transport of a `RequestResponseCycle`."""

    def __init__(self, transport: asyncio.Transport, close: Callable[[], None]) -> None:
        self.is_closing = transport.is_closing
        self._transport = transport
        self._close = close
        self._begun = False
        self._head = b""

    def write(self, data: bytes) -> None:
        if self._head:
            self._transport.writelines((self._head, data))
            self._head = b""
        elif self._begun or data.startswith(INTERIM):
            self._transport.write(data)
        else:
            self._head = data
            self._begun = True

    def completed(self) -> None:
        """The answer has had its last piece, or none at all."""
        self._flush()
        self._begun = False

    def close(self) -> None:
        self._flush()
        self._close()

    def _flush(self) -> None:
        if self._head:
            self._transport.write(self._head)
            self._head = b""
