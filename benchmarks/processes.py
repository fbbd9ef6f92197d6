"""The processes of a run: started in sessions of their own with a log each, and ended whatever happens."""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from benchmarks.errors import CannotStart
from stack.host.parent_death import end_with_parent

# A launcher gives its vLLM 15 s to end before it kills it.
END_LIMIT_S = 20.0
POLL_S = 0.1
LOG_TAIL_BYTES = 3000


@dataclass(frozen=True)
class Launch:
    """One process to start; `name` also names its log. `folder`: its working directory, None for ours."""

    name: str
    command: tuple[str, ...]
    environment: dict[str, str]
    folder: Path | None = None


class Processes:
    """A context manager: at its end nothing that it started runs any more."""

    def __init__(self, logs: Path) -> None:
        self._logs = logs
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        logs.mkdir(parents=True, exist_ok=True)

    def __enter__(self) -> "Processes":
        return self

    def __exit__(self, *exception: object) -> None:
        self.end(list(self._running))

    def start(self, launches: Iterable[Launch]) -> None:
        for launch in launches:
            with self._log(launch.name).open("wb") as log:
                self._running[launch.name] = subprocess.Popen(
                    launch.command,
                    env=launch.environment,
                    cwd=launch.folder,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                    preexec_fn=partial(end_with_parent, os.getpid()),  # one that is killed leaves no servers
                )

    def pid(self, name: str) -> int:
        return self._running[name].pid

    def check(self) -> None:
        """Raises: CannotStart: one has ended by itself; with the end of its log."""
        for name, process in self._running.items():
            if process.poll() is not None:
                raise CannotStart(
                    f"{name} ended with status {process.returncode}; the end of its log:\n{self.tail(name)}"
                )

    def wait(self, name: str, limit_s: float) -> int:
        """Status of one that ends by itself; whatever happens meanwhile, it has ended afterwards.

        Raises: CannotStart: it did not within `limit_s`.
        """
        try:
            status = self._running[name].wait(limit_s)
        except subprocess.TimeoutExpired as error:
            self.end([name])
            raise CannotStart(
                f"{name} had not ended after {limit_s:g} s; the end of its log:\n{self.tail(name)}"
            ) from error
        except BaseException:
            self.end([name])
            raise
        del self._running[name]
        return status

    def tail(self, name: str) -> str:
        """The end of a log."""
        return self._log(name).read_bytes()[-LOG_TAIL_BYTES:].decode(errors="replace")

    def end(self, names: Sequence[str]) -> None:
        """SIGTERM to all of them at once, SIGKILL to the whole sessions of those that take too long."""
        ending = [self._running.pop(name) for name in names]
        for process in ending:
            process.terminate()
        limit = time.monotonic() + END_LIMIT_S
        while time.monotonic() < limit and any(process.poll() is None for process in ending):
            time.sleep(POLL_S)
        for process in ending:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # also what it left behind in its session
            process.wait()

    def _log(self, name: str) -> Path:
        return self._logs / f"{name}.log"
