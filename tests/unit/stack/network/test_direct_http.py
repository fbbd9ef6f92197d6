"""Calls within the stack and the environment's proxies, at a server of this machine and a proxy that nobody runs."""

import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from stack import health
from stack.configuration.settings import REPOSITORY
from stack.network.direct_http import open_directly, past_proxies
from tests.real_stack import FOREIGN_VARIABLES
from tests.unit.stack.waiting import free_port


class Well(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"well")

    def log_message(self, format: str, *args: object) -> None:
        """Silent."""


@pytest.fixture
def url() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), Well) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/health"
        server.shutdown()
        thread.join()


@pytest.fixture
def foreign(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in FOREIGN_VARIABLES.items():
        monkeypatch.setenv(name, value)


@pytest.mark.usefixtures("foreign")
def test_no_proxy_is_asked_in_whatever_spelling_it_is_named(url: str) -> None:
    with pytest.raises(OSError, match="refused"):
        urllib.request.build_opener(urllib.request.ProxyHandler()).open(url, timeout=5)

    with open_directly(url, timeout_s=5) as answer:
        assert answer.read() == b"well"


@pytest.mark.usefixtures("foreign")
@pytest.mark.parametrize("there", [True, False], ids=["well", "nobody there"])
def test_a_containers_health_check_tells_by_its_status(url: str, there: bool) -> None:
    asked = url if there else f"http://127.0.0.1:{free_port()}/health"
    status = subprocess.run([sys.executable, "-m", "stack.health", asked], cwd=REPOSITORY, timeout=60, check=False)

    assert status.returncode == (0 if there else 1)


def test_a_stranger_who_does_not_speak_http_is_not_well() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def babble() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(b"220 mail.example ESMTP\r\n")

        thread = threading.Thread(target=babble)
        thread.start()
        assert not health.answers(f"http://127.0.0.1:{listener.getsockname()[1]}/health")
        thread.join()


@pytest.mark.parametrize(
    ("given", "lower", "upper"),
    [
        ({}, "etcd,10.0.0.1", "etcd,10.0.0.1"),
        ({"no_proxy": "a, b"}, "a,b,etcd,10.0.0.1", "a,b,etcd,10.0.0.1"),
        ({"NO_PROXY": "a"}, "a,etcd,10.0.0.1", "a,etcd,10.0.0.1"),
        ({"no_proxy": "a", "NO_PROXY": "b"}, "a,etcd,10.0.0.1", "b,etcd,10.0.0.1"),
        ({"no_proxy": "etcd"}, "etcd,10.0.0.1", "etcd,10.0.0.1"),
        ({"NO_PROXY": "*"}, "*", "*"),
    ],
    ids=["none", "lower case", "upper case", "both, different", "there already", "everything"],
)
def test_no_proxy_keeps_what_it_had(given: dict[str, str], lower: str, upper: str) -> None:
    assert past_proxies(given, ["etcd", "10.0.0.1", "etcd"]) == {"no_proxy": lower, "NO_PROXY": upper}
