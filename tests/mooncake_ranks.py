"""Processes of `mooncake_rank.py`: Mooncake's real engines as the connector drives them, without vLLM."""

import hashlib
import json
import os
import subprocess
import threading
from pathlib import Path
from typing import Any

from stack.configuration.settings import REPOSITORY

PROGRAM = Path(__file__).with_name("mooncake_rank.py")
PYTHON = REPOSITORY / ".stack" / "venv" / "vllm" / "bin" / "python"
MEMORY_BYTES = 32 << 20
LIMIT_S = 120.0  # for what must end at all


class Rank:
    """A process with engines and 32 MiB of memory. `host`: its address; `prefix`: words before its command."""

    def __init__(
        self,
        name: str,
        etcd: str,
        transport: str,
        log: Path,
        host: str = "127.0.0.1",
        prefix: tuple[str, ...] = (),
    ) -> None:
        variables = {name: value for name, value in os.environ.items() if not name.startswith("MC_")}
        with log.open("ab") as errors:
            self.process = subprocess.Popen(
                [*prefix, str(PYTHON), str(PROGRAM), name, host, etcd, transport],
                env=variables | {"PYTHONPATH": str(REPOSITORY)},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
            )
        self._limit = threading.Timer(LIMIT_S, self.process.kill)  # then `answer` finds the end of the output
        self._limit.start()
        self.address = self.answer()

    def ask(self, **request: Any) -> Any:
        self.tell(**request)
        return self.answer()

    def tell(self, **request: Any) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(request).encode() + b"\n")
        self.process.stdin.flush()

    def write(self, peer: "Rank", pieces: list[tuple[int, int, int]]) -> str | None:
        """The error, if there is one."""
        error: str | None = self.ask(write=peer.address, pieces=pieces)
        return error

    def answer(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        return json.loads(line) if line else None

    def end(self) -> None:
        self._limit.cancel()
        self.process.kill()
        self.process.communicate()


def sha256_of_filled(pieces: list[tuple[int, int, int]], byte: int) -> str:
    """Of a peer's memory, zeros before, after these pieces of memory filled with `byte` have arrived."""
    memory = bytearray(MEMORY_BYTES)
    for _, target, length in pieces:
        memory[target : target + length] = bytes([byte]) * length
    return hashlib.sha256(memory).hexdigest()
