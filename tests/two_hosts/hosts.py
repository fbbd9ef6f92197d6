"""Two hosts on one machine: network namespaces with the addresses of the seed document, joined by a wire to cut.

Needs root, util-linux and iproute2. The namespaces live as long as the processes that hold them.
"""

import ctypes
import json
import os
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

CLONE_NEWNET = 0x40000000
AT_ONCE = 8
Result = TypeVar("Result")


@dataclass(frozen=True)
class Host:
    """`namespace` is the path that `nsenter` and `setns` take; `device` this host's end of the wire."""

    address: str
    namespace: str
    device: str
    _threads: ThreadPoolExecutor = field(repr=False)

    @property
    def enter(self) -> tuple[str, ...]:
        """Words before a command that is to run on this host."""
        return ("nsenter", f"--net={self.namespace}")

    def call(self, function: Callable[..., Result], *arguments: Any) -> "Future[Result]":
        """Run it in a thread of this host: a network namespace belongs to a thread."""
        return self._threads.submit(function, *arguments)

    def received_bytes(self) -> int:
        """What has come over the wire."""
        (link,) = json.loads(self._run("ip", "-json", "-statistics", "link", "show", self.device))
        return int(link["stats64"]["rx"]["bytes"])

    def unsent_bytes(self) -> int:
        """What its TCP connections still hold for the other side, also those that no process has any more."""
        table = self._run("cat", "/proc/self/net/tcp").splitlines()[1:]
        return sum(int(row.split()[4].partition(":")[0], 16) for row in table)

    def cut(self) -> None:
        self._run("ip", "link", "set", self.device, "down")

    def mend(self) -> None:
        self._run("ip", "link", "set", self.device, "up")

    def _run(self, *command: str) -> str:
        return _run(*self.enter, *command)


@contextmanager
def two_hosts(first: str, second: str, rate: str) -> Iterator[tuple[Host, Host]]:
    """`first` and `second` are their addresses in one network of 256, `rate` that of the wire as `tc` takes it."""
    with (
        _namespace() as here,
        _namespace() as there,
        ThreadPoolExecutor(AT_ONCE, initializer=_enter, initargs=(here,)) as threads_here,
        ThreadPoolExecutor(AT_ONCE, initializer=_enter, initargs=(there,)) as threads_there,
    ):
        hosts = Host(first, here, "wire0", threads_here), Host(second, there, "wire1", threads_there)
        _run(*hosts[0].enter, "ip", "link", "add", "wire0", "type", "veth", "peer", "name", "wire1", "netns", there)
        for host in hosts:
            _run(*host.enter, "ip", "link", "set", "lo", "up")
            _run(*host.enter, "ip", "address", "add", f"{host.address}/24", "dev", host.device)
            _run(*host.enter, "ip", "link", "set", host.device, "up")
            shape = ("tbf", "rate", rate, "burst", "256kb", "latency", "50ms")
            _run(*host.enter, "tc", "qdisc", "add", "dev", host.device, "root", *shape)
        yield hosts


@contextmanager
def _namespace() -> Iterator[str]:
    """A new network namespace, held by a process that waits."""
    holder = subprocess.Popen(
        ["unshare", "--net", "sh", "-c", "echo made; exec cat"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert holder.stdout is not None
    try:
        made = holder.stdout.readline()
        assert made == b"made\n", f"no network namespace, which takes root: {holder.communicate()[1].decode().strip()}"
        yield f"/proc/{holder.pid}/ns/net"
    finally:
        holder.kill()
        holder.communicate()


def _enter(namespace: str) -> None:
    descriptor = os.open(namespace, os.O_RDONLY)
    try:
        code = ctypes.CDLL(None, use_errno=True).setns(descriptor, CLONE_NEWNET)  # os.setns came with Python 3.12
        if code != 0:
            raise OSError(ctypes.get_errno(), "setns")
    finally:
        os.close(descriptor)


def _run(*command: str) -> str:
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, f"{' '.join(command)}: {result.stderr}"
    return result.stdout
