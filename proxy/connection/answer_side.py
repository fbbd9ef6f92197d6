"""A connection as uvicorn's answers see it: an answer's head goes out together with the first piece of its body.

uvloop writes at once, so that each write is a system call here and a wake-up at the client.
"""

import asyncio
from collections.abc import Callable

EVERY_HEAD = b"HTTP/1.1 "
INTERIM = EVERY_HEAD + b"1"


class AnswerSide:
    """In place of the transport of a `RequestResponseCycle`. begun: the answer's head is known."""

    def __init__(self, transport: asyncio.Transport, close: Callable[[], None]) -> None:
        self.is_closing = transport.is_closing
        self._transport = transport
        self._close = close
        self.begun = False
        self._head = b""
        self._ahead = 0  # bytes of it that are out

    def send_ahead(self) -> None:
        """One more byte of what every head begins with, for who wants to know whether anybody takes it."""
        if not self.begun and self._ahead < len(EVERY_HEAD):
            self._transport.write(EVERY_HEAD[self._ahead : self._ahead + 1])
            self._ahead += 1

    def write(self, data: bytes) -> None:
        if self._head:
            self._transport.writelines((self._head, data))
            self._head = b""
        elif self.begun:
            self._transport.write(data)
        else:
            rest, self._ahead = data[self._ahead :], 0
            if data.startswith(INTERIM):
                self._transport.write(rest)
            else:
                self._head = rest
                self.begun = True

    def completed(self) -> None:
        """The answer has had its last piece, or none at all."""
        self._flush()
        self.begun = False

    def close(self) -> None:
        self._flush()
        self._close()

    def _flush(self) -> None:
        if self._head:
            self._transport.write(self._head)
            self._head = b""
