"""How the streams of each API begin and end, and the form of its errors."""

import json

import pytest

from proxy.errors import error_body
from proxy.request.endpoints import CHAT, COMPLETIONS, COUNT_TOKENS, ENDPOINTS, MESSAGES, RESPONSES, Endpoint

CREATED = b'event: response.created\ndata: {"response":{"error":null}}\n\n'
IN_PROGRESS = b'event: response.in_progress\ndata: {"response":{}}\n\n'
ADDED = b'event: response.output_item.added\ndata: {"item":{}}\n\n'
COMPLETED = b'event: response.completed\ndata: {"response":{}}\n\n'
TOKEN = b'data: {"choices":[]}\n\n'
DONE = b"data: [DONE]\n\n"
START = b'event: message_start\ndata: {"type":"message_start"}\n\n'
STOP = b'event: message_stop\ndata: {"type":"message_stop"}\n\n'
PING = b": ping\n\n"
ERROR = error_body(502, "It broke.", "instance_error")


def test_no_path_is_there_twice() -> None:
    assert len({endpoint.path for endpoint in ENDPOINTS}) == len(ENDPOINTS)


@pytest.mark.parametrize(
    ("endpoint", "events", "data"),
    [
        (CHAT, TOKEN + DONE, b'{"choices":[]}'),
        (CHAT, PING, None),
        (CHAT, b"", None),
        (MESSAGES, PING + START, b'{"type":"message_start"}'),
        (RESPONSES, CREATED + IN_PROGRESS, None),
        (RESPONSES, CREATED + IN_PROGRESS + ADDED, b'{"item":{}}'),
    ],
)
def test_where_the_models_answer_begins(endpoint: Endpoint, events: bytes, data: bytes | None) -> None:
    assert endpoint.first_data(events) == data


@pytest.mark.parametrize(
    ("endpoint", "events", "whole"),
    [
        (COMPLETIONS, DONE, True),
        (COMPLETIONS, TOKEN + DONE, True),
        (COMPLETIONS, TOKEN, False),
        (COMPLETIONS, b'data: {"text": "data: [DONE]"}\n\n', False),
        (COMPLETIONS, b"", False),
        (RESPONSES, COMPLETED, True),
        (RESPONSES, ADDED + COMPLETED, True),
        (RESPONSES, ADDED, False),
        (MESSAGES, STOP, True),
        (MESSAGES, START + STOP, True),
        (MESSAGES, DONE, False),
    ],
)
def test_where_a_stream_ends(endpoint: Endpoint, events: bytes, whole: bool) -> None:
    assert endpoint.is_whole(events) is whole


def test_errors_are_in_the_form_of_their_api() -> None:
    assert COMPLETIONS.error_body(ERROR) == ERROR
    assert CHAT.failed(ERROR) == b"data: " + ERROR + b"\n\n"
    assert RESPONSES.failed(ERROR) == b"data: " + ERROR + b"\n\n"
    expected = {"type": "error", "error": {"type": "server_error", "message": "It broke."}}
    assert json.loads(COUNT_TOKENS.error_body(ERROR)) == expected
    head, _, data = MESSAGES.failed(ERROR).partition(b"\ndata: ")
    assert head == b"event: error"
    assert json.loads(data) == expected
