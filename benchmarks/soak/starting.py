"""Finds the running stack or starts one, and starts the load on it: both with `python -m stack`, as `make` does."""

import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from benchmarks.errors import CannotStart
from benchmarks.soak.containers import StackOfContainers
from benchmarks.soak.processes import StackOfProcesses
from benchmarks.soak.stack import RunningStack
from stack.configuration.settings import REPOSITORY, StackSettings
from stack.running import compose

TOOLS = REPOSITORY / ".stack" / "venv" / "tools" / "bin" / "python"  # as in the Makefile


@contextmanager
def running(settings: StackSettings) -> Iterator[RunningStack]:
    """The stack that runs, or else one that is started and ended again. Raises: CannotStart."""
    stack = _of(settings)
    if stack.is_up():
        yield stack
        return
    try:
        _make("up")
        yield stack
    finally:
        _make("down")


def _of(settings: StackSettings) -> RunningStack:
    """The one that runs, or the kind that `make up` would start."""
    processes = StackOfProcesses(settings)
    if processes.is_up() or settings.stack_mode == "processes":
        return processes
    with_docker = settings.stack_mode == "docker" or compose.is_available()
    return StackOfContainers(settings) if with_docker else processes


def _make(target: str) -> None:
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
