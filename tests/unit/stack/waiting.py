"""Waiting for a condition with a limit, and ports that are free."""

import socket
import time
from collections.abc import Callable

LIMIT_S = 30.0


def until(condition: Callable[[], bool]) -> None:
    """Returns as soon as `condition` holds. Raises: AssertionError: after LIMIT_S."""
    deadline = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < deadline, f"not within {LIMIT_S:.0f} s"
        time.sleep(0.05)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port
