"""Two hosts on one machine: network namespaces joined by a link of limited rate.

They belong to this process and vanish with it. It stays in the producer's; the consumer starts through `nsenter`.
"""

import ctypes
import os
import subprocess
from dataclasses import dataclass

from benchmarks.errors import CannotStart

CLONE_NEWNET = 0x40000000
PRODUCER_HOST, CONSUMER_HOST = "10.77.0.1", "10.77.0.2"
# tbf lets a burst of this size pass at the speed of memory: 5 ms of the link, 256 KiB of 46 MB.
BURST, LATENCY = "256kb", "50ms"


@dataclass(frozen=True)
class Link:
    """`enter_consumer` are the words that start a command in the consumer's namespace."""

    enter_consumer: tuple[str, ...]


def shaped_link(rate: str) -> Link:
    """Move this process into a new namespace, joined with another by a link of `rate` in both directions.

    To be called before any thread starts: a namespace belongs to a thread. Raises: CannotStart.
    """
    _enter_new_namespace()
    consumer = _open_own_namespace()
    _run("ip", "link", "set", "lo", "up")
    _enter_new_namespace()
    path = f"/proc/{os.getpid()}/fd/{consumer}"
    enter = ("nsenter", f"--net={path}")
    _run("ip", "link", "set", "lo", "up")
    _run("ip", "link", "add", "producer0", "type", "veth", "peer", "name", "consumer0", "netns", path)
    for prefix, device, host in (((), "producer0", PRODUCER_HOST), (enter, "consumer0", CONSUMER_HOST)):
        _run(*prefix, "ip", "address", "add", f"{host}/30", "dev", device)
        _run(*prefix, "ip", "link", "set", device, "up")
        shape = ("tbf", "rate", rate, "burst", BURST, "latency", LATENCY)
        _run(*prefix, "tc", "qdisc", "add", "dev", device, "root", *shape)
    return Link(enter)


def _enter_new_namespace() -> None:
    libc = ctypes.CDLL(None, use_errno=True)  # os.unshare came with Python 3.12
    if libc.unshare(CLONE_NEWNET) != 0:
        raise CannotStart(f"link: cannot make a network namespace ({os.strerror(ctypes.get_errno())}): run it as root")


def _open_own_namespace() -> int:
    """A descriptor that keeps the namespace alive; it stays open for the life of this process."""
    return os.open("/proc/self/ns/net", os.O_RDONLY)


def _run(*command: str) -> None:
    """Raises: CannotStart: with what the command said."""
    try:
        result = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise CannotStart(f"link: program {command[0]} is missing; package iproute2 has ip and tc") from error
    if result.returncode != 0:
        raise CannotStart(f"link: `{' '.join(command)}` failed: {result.stderr.strip()}")
