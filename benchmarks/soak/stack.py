"""What a soak needs of the stack under load, however `make up` started it."""

import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


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
        """Of a load that does not end by itself; returns when it has ended. Raises: Unreachable."""
