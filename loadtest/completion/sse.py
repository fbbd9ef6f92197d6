"""Server-sent events out of a byte stream, however the bytes are split.

Follows the WHATWG rules for `data` and `event`; `id` and `retry` are for reconnecting, which a load test never does.
An event that the stream breaks off in the middle of is dropped, as the rules say.
"""

import re
from typing import NamedTuple

_LINE = re.compile(rb"([^\r\n]*)(?:\r\n|\r|\n)")
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class Event(NamedTuple):
    type: str  # "message" unless the server named it
    data: str


class EventParser:
    """Feed it the bytes of one response in order; comment: the last one so far, which is no event."""

    def __init__(self) -> None:
        self.comment: str | None = None
        self._rest = b""
        self._at_start = True
        self._after_cr = False
        self._type = ""
        self._data: list[bytes] = []

    def feed(self, received: bytes) -> list[Event]:
        """Returns: the events that these bytes completed."""
        if not received:
            return []
        if self._is_between_lines and received.endswith(b"\n") and received.count(b"\n") == 1 and b"\r" not in received:
            event = self._take_line(received[:-1])  # one whole line, as nearly always
            return [event] if event else []
        if self._after_cr:  # the \r that ended the last feed may have been half of a \r\n
            received = received.removeprefix(b"\n")
        received = self._rest + received
        if self._at_start:
            if len(received) < len(_BYTE_ORDER_MARK) and _BYTE_ORDER_MARK.startswith(received):
                self._rest = received
                return []
            received = received.removeprefix(_BYTE_ORDER_MARK)
            self._at_start = False

        events = []
        consumed = 0
        for line in _LINE.finditer(received):
            consumed = line.end()
            if event := self._take_line(line[1]):
                events.append(event)
        self._rest = received[consumed:]
        self._after_cr = received.endswith(b"\r")
        return events

    @property
    def _is_between_lines(self) -> bool:
        return not (self._rest or self._at_start or self._after_cr)

    def _take_line(self, line: bytes) -> Event | None:
        if not line:
            return self._dispatch()
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if field == b"data":
            self._data.append(value)
        elif field == b"event":
            self._type = value.decode("utf-8", "replace")
        elif not field:
            self.comment = value.decode("utf-8", "replace")
        return None

    def _dispatch(self) -> Event | None:
        data, event_type = self._data, self._type or "message"
        self._data, self._type = [], ""
        return Event(event_type, b"\n".join(data).decode("utf-8", "replace")) if data else None
