"""The tabs of an open console: what they ask for, and that one without an answer ends the run."""

import json
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from benchmarks.errors import CannotStart
from benchmarks.proxy.clients import console_tabs

AT = 1_700_000_100.0
LIMIT_S = 5.0


@contextmanager
def console(status: int, asked: list[str]) -> Iterator[int]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            asked.append(self.path)
            body = json.dumps({"requests": [{"at": AT}]}).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()


def test_each_tab_asks_again_and_for_what_is_new(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MAP_EVERY_S", "REQUESTS_EVERY_S", "NOW_EVERY_S"):
        monkeypatch.setattr(console_tabs, name, 0.01)
    asked: list[str] = []
    seen = {"/console/api/map", "/console/api/now", f"/console/api/requests?since={AT - 5}"}
    with console(200, asked) as port, console_tabs.opened(port, sorted(os.sched_getaffinity(0))):
        limit = time.monotonic() + LIMIT_S
        while not seen <= set(asked) and time.monotonic() < limit:
            time.sleep(0.01)
    assert seen <= set(asked)
    assert next(path for path in asked if "since" in path) == "/console/api/requests?since=0.0"


def test_an_answer_that_is_none_ends_the_run() -> None:
    with (
        console(503, []) as port,
        pytest.raises(CannotStart, match="answered 503, expected 200"),
        console_tabs.opened(port, sorted(os.sched_getaffinity(0))),
    ):
        pass
