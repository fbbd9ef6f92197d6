"""How clients of all kinds connect to the whole stack: pages in a browser, HTTP/1.0, those who send no more."""

import json
import socket

import pytest

from tests.real_stack import MODEL, RealStack

PATIENCE_S = 120
PROMPT = {"model": MODEL, "prompt": " ".join(str(number) for number in range(1, 200)), "max_tokens": 4}


def answered(stack: RealStack, request: bytes, half_close: bool = False) -> tuple[str, bytes]:
    """The head in small letters, and what follows up to the end of the connection."""
    host, port = stack.api_url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), PATIENCE_S) as client:
        client.sendall(request)
        if half_close:
            client.shutdown(socket.SHUT_WR)
        answer = b""
        while piece := client.recv(65536):
            answer += piece
    head, _, body = answer.partition(b"\r\n\r\n")
    return head.decode().lower(), body


def completion(body: dict[str, object], version: str) -> bytes:
    content = json.dumps(body).encode()
    lines = ("Host: x", "Content-Type: application/json", f"Content-Length: {len(content)}")
    return "\r\n".join((f"POST /v1/completions HTTP/{version}", *lines, "", "")).encode() + content


def test_a_page_may_ask(stack: RealStack) -> None:
    asked = "Origin: http://localhost:3000\r\nAccess-Control-Request-Method: POST\r\nConnection: close"
    head, body = answered(stack, f"OPTIONS /v1/chat/completions HTTP/1.1\r\nHost: x\r\n{asked}\r\n\r\n".encode())
    assert head.startswith("http/1.1 200 ok")
    assert "access-control-allow-origin: *" in head
    assert body == b"OK"


@pytest.mark.parametrize("half_close", [False, True])
def test_a_stream_over_http_1_0(stack: RealStack, half_close: bool) -> None:
    head, body = answered(stack, completion(PROMPT | {"stream": True}, "1.0"), half_close)
    assert head.startswith("http/1.1 200 ok")
    assert "transfer-encoding" not in head
    assert "x-accel-buffering: no" in head
    events = body.replace(b": alive\n\n", b"").split(b"\n\n")
    assert all(event.startswith((b"data: ", b": pd {")) for event in events[:-1])
    assert events[-3] == b"data: [DONE]"


def test_a_whole_answer_for_who_sends_no_more(stack: RealStack) -> None:
    head, body = answered(stack, completion(PROMPT, "1.1"), half_close=True)
    assert head.startswith("http/1.1 200 ok")
    assert "x-pd-path: disaggregated" in head
    assert json.loads(body)["usage"]["completion_tokens"] == 4
