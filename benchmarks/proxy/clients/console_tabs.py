"""The console's pages as a browser that has them open asks for them: the same paths, as often.

No browser, which would need a CPU of its own: what it draws costs the proxy nothing.
"""

import http.client
import json
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from benchmarks.errors import CannotStart
from benchmarks.proxy.upstreams.upstream import LOOPBACK

API = "/console/api/"
MAP_EVERY_S, REQUESTS_EVERY_S, NOW_EVERY_S = 2.0, 2.0, 5.0  # `every` in proxy/console/page/*.js
AGAIN_S = 5.0  # as there
TIMEOUT_S = 10.0


@contextmanager
def opened(port: int, cpus: Sequence[int]) -> Iterator[None]:
    """The map, the requests and the last minutes are open in the body, a tab each, and asked from `cpus`.

    Raises: CannotStart: one did not get its answer.
    """
    closed = threading.Event()
    failures: list[str] = []
    tabs = [
        threading.Thread(target=_tab, args=(port, cpus, ask, every_s, closed, failures))
        for ask, every_s in ((_asks("map"), MAP_EVERY_S), (_requests(), REQUESTS_EVERY_S), (_asks("now"), NOW_EVERY_S))
    ]
    for tab in tabs:
        tab.start()
    try:
        yield
    finally:
        closed.set()
        for tab in tabs:
            tab.join()
    if failures:
        raise CannotStart(f"the console at port {port}: {failures[0]}")


Ask = Callable[[http.client.HTTPConnection], None]


def _tab(
    port: int, cpus: Sequence[int], ask: Ask, every_s: float, closed: threading.Event, failures: list[str]
) -> None:
    os.sched_setaffinity(0, cpus)  # of this thread
    connection = http.client.HTTPConnection(LOOPBACK, port, timeout=TIMEOUT_S)
    try:
        while True:
            ask(connection)
            if closed.wait(every_s):
                return
    except (OSError, http.client.HTTPException, ValueError, CannotStart) as error:
        failures.append(repr(error))
    finally:
        connection.close()


def _asks(path: str) -> Ask:
    def ask(connection: http.client.HTTPConnection) -> None:
        _get(connection, path)

    return ask


def _requests() -> Ask:
    """All that are kept at first, then those since shortly before the last one that is known."""
    since = 0.0

    def ask(connection: http.client.HTTPConnection) -> None:
        nonlocal since
        told = json.loads(_get(connection, f"requests?since={since}"))
        since = max((request["at"] - AGAIN_S for request in told["requests"]), default=since)

    return ask


def _get(connection: http.client.HTTPConnection, path: str) -> bytes:
    connection.request("GET", API + path)
    answer = connection.getresponse()
    body = answer.read()
    if answer.status != http.HTTPStatus.OK:
        raise CannotStart(f"{API}{path} answered {answer.status}, expected 200")
    return body
