"""The stack under load as `make up` started it: processes of this machine, or Docker's containers (containers.py).

Both tell what memory every service has and reach the instances; the load is `python -m stack load` both times.
"""

import os
import signal
import subprocess
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import psutil

from benchmarks.errors import CannotStart
from stack.processes import Processes
from stack.settings import REPOSITORY, StackSettings

TOOLS = REPOSITORY / ".stack" / "venv" / "tools" / "bin" / "python"  # as in the Makefile
ANSWER_LIMIT_S = 5.0


@dataclass(frozen=True)
class Member:
    """One process or container of a service. `identity` is another one once it was started anew."""

    name: str
    identity: str
    memory: int  # bytes


class Unreachable(Exception):
    """Somebody did not answer; the text says who and how."""


class RunningStack(Protocol):
    def is_up(self) -> bool: ...

    def members(self) -> list[Member]:
        """Raises: Unreachable."""

    def read(self, url: str) -> str:
        """What the proxy or an instance answers. Raises: Unreachable."""

    def run_folder(self, wanted: Path) -> str:
        """The load's --run-dir, for files that are to be in `wanted` once `fetch` was called."""

    def fetch(self, wanted: Path) -> None:
        """Raises: Unreachable."""

    def end_load(self, load: "subprocess.Popen[bytes]") -> None:
        """Of a load that does not end by itself. Raises: Unreachable."""


class StackOfProcesses:
    def __init__(self, settings: StackSettings) -> None:
        self._processes = Processes(settings)

    def is_up(self) -> bool:
        return self._processes.is_up()

    def members(self) -> list[Member]:
        try:
            states = self._processes.supervisor.processes()
        except OSError as error:
            raise Unreachable(f"supervisord: {error}") from error
        return [Member(state.name, str(state.pid), tree_memory(state.pid)) for state in states if state.pid]

    def read(self, url: str) -> str:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(url, timeout=ANSWER_LIMIT_S) as answer:
                text: str = answer.read().decode()
        except OSError as error:
            raise Unreachable(f"{url}: {error}") from error
        return text

    def run_folder(self, wanted: Path) -> str:
        return str(wanted)

    def fetch(self, wanted: Path) -> None:
        """The load has written there."""

    def end_load(self, load: "subprocess.Popen[bytes]") -> None:
        os.killpg(load.pid, signal.SIGKILL)


def tree_memory(pid: int) -> int:
    """Bytes of a process with all its children: PSS, where a page that n processes share counts for each by its nth.

    0 when it has ended.
    """
    try:
        root = psutil.Process(pid)
        return sum(_pss(process) for process in (root, *root.children(recursive=True)))
    except psutil.NoSuchProcess:
        return 0


def _pss(process: psutil.Process) -> int:
    try:
        return int(process.memory_full_info().pss)
    except psutil.NoSuchProcess:  # a child that has ended meanwhile
        return 0


def make(target: str) -> None:
    """Start or end the stack as `make up` and `make down` do. Raises: CannotStart."""
    status = subprocess.run(_stack(target), cwd=REPOSITORY, stdin=subprocess.DEVNULL, check=False).returncode
    if status != 0:
        raise CannotStart(f"python -m stack {target} ended with status {status}; see above")


def start_load(arguments: Sequence[str], log: Path) -> "subprocess.Popen[bytes]":
    """In a session of its own."""
    with log.open("wb") as file:
        return subprocess.Popen(
            _stack("load", *arguments),
            cwd=REPOSITORY,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            start_new_session=True,
        )


def _stack(*arguments: str) -> list[str]:
    return [str(TOOLS), "-m", "stack", *arguments]
