"""The little that the proxy has to know about server-sent events: where one ends, and whether it is an error."""

import json
from typing import Any

import orjson

_TRANSFER = b": pd-transfer "


class EventBoundary:
    """Lets bytes through up to the end of the last whole event and holds back the rest.

    vLLM writes whole events, so this is one comparison a chunk. The rest matters when an instance dies in the middle
    of an event: half of one followed by the proxy's error event would not parse in any client.
    """

    def __init__(self) -> None:
        self._rest = b""

    def whole_events(self, chunk: bytes) -> bytes:
        if not self._rest and chunk.endswith(b"\n\n"):
            return chunk
        seen = self._rest + chunk
        end = seen.rfind(b"\n\n") + 2 if b"\n\n" in seen else 0
        self._rest = seen[end:]
        return seen[:end]


class TransferFacts:
    """What the consumer's connector says of the transfer: in a header, and of a stream later in comments, which are for
    the proxy alone (connector/telling/transfer_facts.py)."""

    def __init__(self, header: str | None) -> None:
        self.known: dict[str, Any] = orjson.loads(header) if header else {}

    @property
    def complete(self) -> bool:
        """The transfer is over."""
        return "bytes" in self.known

    def taken_from(self, events: bytes) -> bytes:
        """Whole events without such comments."""
        if _TRANSFER not in events:
            return events
        kept = []
        for event in events.split(b"\n\n"):
            if event.startswith(_TRANSFER):
                self.known = orjson.loads(event.removeprefix(_TRANSFER))
            else:
                kept.append(event)
        return b"\n\n".join(kept)


def last_events(events: bytes, number: int) -> bytes | None:
    """The last ones of some whole events; None where there are no more than so many."""
    begin = len(events)
    for _ in range(number):
        begin = events.rfind(b"\n\n", 0, begin - 2) + 2
        if begin < 2:
            return None
    return events[begin:]


def error_in(data: bytes) -> dict[str, Any] | None:
    """The `error` object of an event with which vLLM reports a failure after it has already sent status 200."""
    if b'"error"' not in data:  # nearly always, and to parse it costs more than all else that is done with an event
        return None
    try:
        content = json.loads(data)
    except ValueError:
        return None
    error = content.get("error") if isinstance(content, dict) else None
    return error if isinstance(error, dict) else None
