"""Processes of `rank.py`, and other programs that obey one JSON line after the other, as a test asks them."""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

PROGRAM = Path(__file__).with_name("rank.py")
REPOSITORY = PROGRAM.parents[3]
HOST = "10.0.2.15"  # of the guest's RDMA device
LIMIT_S = 100.0  # for what must end at all


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.2)


class Obedient:
    """`ask` calls a method of the program's by its name."""

    def __init__(self, command: list[str], log: Path, variables: dict[str, str], limit: float = LIMIT_S) -> None:
        self.log = log
        with log.open("wb") as errors:
            self.process = subprocess.Popen(
                command,
                env={**os.environ, "PYTHONPATH": str(REPOSITORY), **variables},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
            )
        self._limit = threading.Timer(limit, self.process.kill)  # then `answer` finds the end of the output
        self._limit.start()

    @cached_property
    def address(self) -> dict[str, Any]:
        """Waits until it has started; so several that were made one after the other start at the same time."""
        address = self.answer()
        assert address, self.log.read_text()
        return dict(address)

    @property
    def refusal(self) -> str:
        """The line that it ended with."""
        assert self.process.wait(LIMIT_S) == 1, self.log.read_text()
        return self.log.read_text().splitlines()[-1]

    def ask(self, name: str, *arguments: Any) -> Any:
        self.tell(name, *arguments)
        return self.answer()

    def tell(self, name: str, *arguments: Any) -> None:
        """Its answer is to be taken with `answer`."""
        assert self.address
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps([name, *arguments]).encode() + b"\n")
        self.process.stdin.flush()

    def answer(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        return json.loads(line) if line else None

    def end(self) -> None:
        self._limit.cancel()
        self.process.kill()
        self.process.communicate()


class Rank(Obedient):
    """`settings` are those of `open_engines` and of the waits; `variables` are added to the environment, `prefix` are
    words before the command."""

    def __init__(
        self, name: str, etcd: str, log: Path, settings: dict[str, Any], variables: dict[str, str], prefix: list[str]
    ) -> None:
        defaults = {"host": HOST, "transport": "rdma", "device": "", "write_timeout": 8, "patience": 30, "timeout": 60}
        options = {"name": name, "etcd": etcd, **defaults, **settings}
        super().__init__([*prefix, sys.executable, str(PROGRAM), json.dumps(options)], log, variables)

    def write(self, peer: "Rank", pieces: list[tuple[int, int, int]]) -> str:
        return str(self.ask("write", peer.address, pieces))
