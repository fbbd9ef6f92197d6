"""A store as its programs are: one master, which knows what is where, and one owner, which has the memory."""

import signal
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, Self

from stack.configuration.settings import REPOSITORY
from stack.running import store
from tests.real_stack import answers, wait_until

PROGRAMS = REPOSITORY / ".stack/venv/vllm/bin"
HOST = "127.200.0.1"
MASTER_PORT, MASTER_HTTP_PORT, OWNER_PORT, OWNER_HTTP_PORT = 24051, 24052, 24053, 24054
SEGMENT_BYTES = 48 << 20  # 768 blocks of the tiny model, 24,576 tokens
START_LIMIT_S = 30.0
# A master that has started anew hears of an owner with its next heartbeat; a client is forgotten after 10 s.
MOUNT_LIMIT_S = 60.0

Part = Literal["master", "owner"]


class Store:
    """`parts` can be killed, started again and stopped for a while, one by one."""

    address = f"{HOST}:{MASTER_PORT}"

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._processes: dict[Part, subprocess.Popen[bytes]] = {}

    def start(self, part: Part) -> None:
        with (self._folder / f"store-{part}.log").open("ab") as log:
            self._processes[part] = subprocess.Popen(
                _commands()[part], stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        if part == "master":
            wait_until(lambda: answers(f"http://{HOST}:{MASTER_HTTP_PORT}/health"), START_LIMIT_S, "the master is up")

    def kill(self, part: Part) -> None:
        process = self._processes.pop(part)
        process.kill()
        process.wait()

    @contextmanager
    def frozen(self, part: Part) -> Iterator[None]:
        """Its process is stopped; the kernel still accepts connections for it."""
        process = self._processes[part]
        process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            process.send_signal(signal.SIGCONT)

    def wait_for_memory(self) -> None:
        """Until the master knows of the owner's memory."""
        wait_until(lambda: self.capacity == SEGMENT_BYTES, MOUNT_LIMIT_S, f"a segment is mounted:\n{self.log}")

    def empty(self) -> None:
        """Keys are in the master's memory alone: with it they go away."""
        self.kill("master")
        self.start("master")
        self.wait_for_memory()
        assert self.keys == 0

    @property
    def keys(self) -> int:
        return int(self._metric("master_key_count"))

    @property
    def capacity(self) -> int:
        """In bytes, of all owners."""
        return int(self._metric("master_total_capacity_bytes"))

    @property
    def evicted(self) -> int:
        return int(self._metric("master_evicted_key_count"))

    @property
    def log(self) -> str:
        logs = sorted(self._folder.glob("store-*.log"))
        return "\n".join(f"=== {file.name}\n{file.read_text(errors='replace')[-3000:]}" for file in logs)

    def _metric(self, name: str) -> float:
        with urllib.request.urlopen(f"http://{HOST}:{MASTER_HTTP_PORT}/metrics", timeout=10) as response:
            lines = response.read().decode().splitlines()
        (value,) = (line.rpartition(" ")[2] for line in lines if line.startswith(name + " "))
        return float(value)

    def __enter__(self) -> Self:
        self.start("master")
        self.start("owner")
        self.wait_for_memory()
        return self

    def __exit__(self, *_: object) -> None:
        for part in tuple(self._processes):
            self.kill(part)


def _commands() -> dict[Part, tuple[str, ...]]:
    return {
        "master": store.master_command(PROGRAMS, HOST, MASTER_PORT, MASTER_HTTP_PORT),
        "owner": store.owner_command(PROGRAMS, HOST, OWNER_PORT, OWNER_HTTP_PORT, Store.address, SEGMENT_BYTES),
    }
