"""The guest's RDMA devices: soft-RoCE on a network interface, with the kernel's own counters."""

import fcntl
import socket
import struct
import subprocess
from pathlib import Path

INFINIBAND = Path("/sys/class/infiniband")
MTU = 4096  # bytes of payload in a packet; the guest's interfaces have room for them
SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP = 0x8913, 0x8914, 1
REQUEST = "16sh14x"  # struct ifreq with flags


def counter(device: str, name: str) -> int:
    return int((INFINIBAND / device / "ports/1/hw_counters" / name).read_text())


def add(device: str, interface: str) -> None:
    _run("rdma", "link", "add", device, "type", "rxe", "netdev", interface)


def remove(device: str) -> None:
    _run("rdma", "link", "delete", device)


def add_interface(interface: str, address: str) -> None:
    _run("ip", "link", "set", interface, "mtu", "9000", "up")
    _run("ip", "address", "replace", address, "dev", interface)


def break_interface(interface: str) -> None:
    """Without an address, and with Ethernet's usual MTU."""
    _run("ip", "address", "flush", "dev", interface)
    _run("ip", "link", "set", interface, "mtu", "1500")


def link_down(interface: str) -> None:
    """By a call of the kernel: under emulation a program takes longer to start than a transfer lasts."""
    _set_flags(interface, _flags(interface) & ~IFF_UP)


def link_up(interface: str) -> None:
    _set_flags(interface, _flags(interface) | IFF_UP)


def _flags(interface: str) -> int:
    with socket.socket() as any_socket:
        answer = fcntl.ioctl(any_socket, SIOCGIFFLAGS, struct.pack(REQUEST, interface.encode(), 0))
    return int(struct.unpack(REQUEST, answer)[1])


def _set_flags(interface: str, flags: int) -> None:
    with socket.socket() as any_socket:
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack(REQUEST, interface.encode(), flags))


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)
