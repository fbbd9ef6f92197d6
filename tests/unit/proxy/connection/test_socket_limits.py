"""No more connections than the process may have files for."""

import resource

import pytest

from proxy.connection.socket_limits import OWN_FILES, SocketLimits, within_open_files
from tests.unit.proxy.connection.by_hand import MEBIBYTE

INFINITE = resource.RLIM_INFINITY


@pytest.mark.parametrize(
    ("running", "soft", "hard", "raised_to", "connections"),
    [
        (50, OWN_FILES + 200, INFINITE, None, 100),
        (50, 64, INFINITE, OWN_FILES + 200, 100),
        (50, 64, OWN_FILES + 200, OWN_FILES + 200, 100),
        (5000, 64, OWN_FILES + 300, OWN_FILES + 300, 100),
        (50, 64, OWN_FILES + 199, OWN_FILES + 199, 66),
        (50, OWN_FILES + 90, OWN_FILES + 90, None, 30),
        (50, 10, 10, None, 1),
        (50, INFINITE, INFINITE, None, 100),
    ],
)
def test_connections_have_files(
    running: int, soft: int, hard: int, raised_to: int | None, connections: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [(soft, hard)]
    monkeypatch.setattr(resource, "getrlimit", lambda _: now[-1])
    monkeypatch.setattr(resource, "setrlimit", lambda _, bound: now.append(bound))
    limits = within_open_files(SocketLimits(100, 8192, 1.0, MEBIBYTE), running)
    assert limits.connections == connections
    assert now[1:] == ([] if raised_to is None else [(raised_to, hard)])
