"""A store as its programs are: one master, which knows what is where, and one owner, which has the memory."""

import os
import signal
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal, Self

import psutil

from stack.configuration.settings import REPOSITORY
from stack.running import store
from stack.store import cluster
from tests.real_stack import answers, wait_until
from tests.store.values import Values

PROGRAMS = REPOSITORY / ".stack/venv/vllm/bin"
HOST = "127.200.0.1"
MASTER_PORT, MASTER_HTTP_PORT, OWNER_PORT, OWNER_HTTP_PORT = 24051, 24052, 24053, 24054
SEGMENT_BYTES = 96 << 20  # 1,536 blocks of the tiny model, 49,152 tokens
START_LIMIT_S = 30.0
# A master that has started anew hears of an owner with its next heartbeat; a client is forgotten after 10 s.
MOUNT_LIMIT_S = 60.0
CLIENT_LIMIT_S = 120.0

Part = Literal["master", "owner", "first", "second"]  # the last two are masters that stand by for each other
How = Literal["killed", "stopped"]


class Store(Values):
    """`parts` can be killed, started again and stopped for a while, one by one."""

    address = f"{HOST}:{MASTER_PORT}"
    masters: tuple[Part, ...] = ("master",)
    segment_bytes = SEGMENT_BYTES

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._processes: dict[Part, subprocess.Popen[bytes]] = {}

    def start(self, part: Part) -> None:
        with (self._folder / f"store-{part}.log").open("ab") as log:
            self._processes[part] = subprocess.Popen(
                self._command(part),
                cwd=REPOSITORY,
                env={**os.environ, **self._variables(part)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        if part in self.masters:
            wait_until(lambda: answers(f"{self._http(part)}/health"), START_LIMIT_S, f"the {part} is up:\n{self.log}")

    def kill(self, part: Part) -> None:
        process = self._processes.pop(part)
        for each in _family(process):
            with suppress(psutil.NoSuchProcess):
                each.kill()
        process.wait()

    @contextmanager
    def frozen(self, part: Part) -> Iterator[None]:
        """Its process is stopped; the kernel still accepts connections for it."""
        family = _family(self._processes[part])
        for each in family:
            each.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            for each in family:
                each.send_signal(signal.SIGCONT)

    @contextmanager
    def failing(self, part: Part, how: How) -> Iterator[None]:
        if how == "stopped":
            with self.frozen(part):
                yield
            return
        self.kill(part)
        try:
            yield
        finally:
            self.start(part)

    def wait_for_memory(self) -> None:
        """Until the master knows of the owner's memory."""
        wait_until(lambda: self.capacity == self.segment_bytes, MOUNT_LIMIT_S, f"a segment is mounted:\n{self.log}")

    def empty(self) -> None:
        """Keys are in the master's memory alone: with it they go away."""
        self.kill("master")
        self.start("master")
        self.wait_for_memory()
        assert self.keys == 0

    def _client(self, verb: str, first: int, count: int) -> list[int]:
        words = [HOST, self.address, verb, str(first), str(count)]
        ended = subprocess.run(
            [str(PROGRAMS / "python"), "-m", "tests.store.client", *words],
            cwd=REPOSITORY,
            env={**os.environ, **cluster.of_clients(self.address)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=CLIENT_LIMIT_S,
            check=False,
        )
        assert ended.returncode == 0, ended.stderr[-3000:]
        return [int(word) for word in ended.stdout.split()]

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

    @property
    def leader(self) -> Part:
        """The master that answers clients."""
        (found,) = self.masters
        return found

    def _metric(self, name: str) -> float:
        with urllib.request.urlopen(f"{self._http(self.leader)}/metrics", timeout=10) as response:
            lines = response.read().decode().splitlines()
        (value,) = (line.rpartition(" ")[2] for line in lines if line.startswith(name + " "))
        return float(value)

    def _command(self, part: Part) -> tuple[str, ...]:
        if part == "master":
            return store.master_command(PROGRAMS, HOST, MASTER_PORT, MASTER_HTTP_PORT)
        return store.owner_command(PROGRAMS, HOST, OWNER_PORT, OWNER_HTTP_PORT, self.address, SEGMENT_BYTES)

    def _variables(self, part: Part) -> dict[str, str]:
        return {}

    def _http(self, part: Part) -> str:
        return f"http://{HOST}:{MASTER_HTTP_PORT}"

    def __enter__(self) -> Self:
        for master in self.masters:
            self.start(master)
        self.start("owner")
        self.wait_for_memory()
        return self

    def __exit__(self, *_: object) -> None:
        for part in tuple(self._processes):
            self.kill(part)


def _family(process: "subprocess.Popen[bytes]") -> list[psutil.Process]:
    """It and what it has started, which is first."""
    itself = psutil.Process(process.pid)
    return [*itself.children(recursive=True), itself]
