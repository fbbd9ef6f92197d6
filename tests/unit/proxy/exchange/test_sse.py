"""Event boundaries however the bytes are cut, and errors in events."""

from typing import Any

import pytest

from proxy.exchange.sse import EventBoundary, error_in, last_events

STREAM = b'data: {"a": 1}\n\n: ping\n\ndata: {"b": 2}\n\ndata: [DONE]\n\n'


@pytest.mark.parametrize("size", range(1, len(STREAM) + 1))
def test_only_whole_events_pass_and_none_is_lost(size: int) -> None:
    boundary = EventBoundary()
    passed = [boundary.whole_events(STREAM[at : at + size]) for at in range(0, len(STREAM), size)]
    assert b"".join(passed) == STREAM
    assert all(events.endswith(b"\n\n") for events in passed if events)


@pytest.mark.parametrize(("number", "expected"), [(1, 40), (2, 24), (3, 16), (4, None)], ids=str)
def test_the_last_events(number: int, expected: int | None) -> None:
    assert last_events(STREAM, number) == (None if expected is None else STREAM[expected:])
    assert last_events(b"", number) is None


def test_half_an_event_is_held_back() -> None:
    boundary = EventBoundary()
    assert boundary.whole_events(b"data: 1\n\ndata: 2") == b"data: 1\n\n"
    assert boundary.whole_events(b"3\n") == b""
    assert boundary.whole_events(b"\ndata") == b"data: 23\n\n"


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b'{"error": {"message": "m", "code": 400}}', {"message": "m", "code": 400}),
        (b'{"choices": [], "error": null}', None),
        (b'{"choices": [{"text": "\\"error\\""}]}', None),
        (b"[DONE]", None),
        (b"[]", None),
    ],
)
def test_error_in(data: bytes, error: dict[str, Any] | None) -> None:
    assert error_in(data) == error
