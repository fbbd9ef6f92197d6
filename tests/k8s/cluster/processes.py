"""One long-lived process of the cluster, with a log, which ends with the tests whatever happens to them."""

import subprocess
from collections.abc import Sequence
from pathlib import Path

STOP_S = 10.0


class Process:
    def __init__(self, name: str, command: Sequence[str], log: Path) -> None:
        self.name = name
        self.log = log
        with log.open("ab") as file:
            self._process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", *command], stdin=subprocess.DEVNULL, stdout=file, stderr=file
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    def ended(self) -> str | None:
        """None while it runs; otherwise how it ended, with the end of its log."""
        if (status := self._process.poll()) is None:
            return None
        return f"{self.name} ended with status {status}: {self.log.read_text(errors='replace')[-2000:]}"

    def hang_up(self) -> None:
        self._process.send_signal(1)

    def stop(self, limit_s: float = STOP_S) -> None:
        self._process.terminate()
        try:
            self._process.wait(limit_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
