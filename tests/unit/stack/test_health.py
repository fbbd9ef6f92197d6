"""Health checks over HTTP, at a server that answers what it is asked for."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from stack import health
from tests.unit.stack.waiting import free_port


class Answer(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(int(self.path.strip("/")))
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Silent."""


@pytest.fixture
def server() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), Answer) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(("status", "well"), [(200, True), (204, True), (404, False), (503, False)])
def test_only_a_good_status_is_well(server: str, status: int, well: bool) -> None:
    assert health.answers(f"{server}/{status}") is well


def test_nobody_there_is_not_well() -> None:
    assert not health.answers(f"http://127.0.0.1:{free_port()}/health")
