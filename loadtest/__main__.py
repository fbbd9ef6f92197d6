"""Starts Locust with the stack's settings; every Locust option can follow.

Example::

    python -m loadtest                                  # web page on http://127.0.0.1:8089
    python -m loadtest --headless -u 10 -r 2 -t 1m      # 10 users for a minute; exit code 1 if a request failed
    python -m loadtest --headless -t 1m --arrivals poisson --rate 4 --input-tokens 1000 --output-tokens 100
    LOADTEST_WORKERS=4 python -m loadtest ...           # the requests are made by four more processes
"""

import socket
import sys
from collections.abc import Sequence
from pathlib import Path

from locust.main import main

from loadtest.settings import LoadTestSettings
from stack.configuration.environment import load_or_exit

_OTHER_PROCESSES = ("--master", "--worker", "--processes")  # Locust's own options; who gives one says what runs where


def _workers(number: int, arguments: Sequence[str]) -> list[str]:
    """Options with which Locust starts so many workers of its own; none for one, which is this process."""
    if number == 1 or any(argument.split("=")[0] in _OTHER_PROCESSES for argument in arguments):
        return []
    with socket.create_server(("127.0.0.1", 0)) as found:  # Locust's default would keep two tests from running at once
        port = str(found.getsockname()[1])
    here = ["--master-bind-host", "127.0.0.1", "--master-bind-port", port, "--master-port", port]
    return ["--processes", str(number), *here]


if __name__ == "__main__":
    settings = load_or_exit(LoadTestSettings)
    sys.argv[1:1] = [
        *("-f", str(Path(__file__).with_name("locustfile.py"))),
        *_workers(settings.loadtest_workers, sys.argv[1:]),
    ]
    main()
