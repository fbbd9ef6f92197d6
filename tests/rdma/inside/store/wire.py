"""Two RDMA devices with a wire between them, which can lose what is sent.

One device alone hands its own packets back to itself. The wire is a pair of interfaces of one network namespace, as
soft-RoCE knows no other; so what goes from the one to the other must not be taken for this machine's own.
"""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.rdma.inside import devices

INTERFACES = ("wire0", "wire1")
DEVICES = ("rxe-wire0", "rxe-wire1")
ADDRESSES = ("10.0.4.1", "10.0.4.2")
ETHERNET_ADDRESSES = ("02:00:00:00:04:01", "02:00:00:00:04:02")
NOBODYS = "02:00:00:00:04:ff"
SETTINGS = Path("/proc/sys/net/ipv4/conf")


@contextmanager
def wire() -> Iterator[None]:
    _ip(
        f"link add {INTERFACES[0]} type veth peer name {INTERFACES[1]}",
        "rule add pref 100 lookup local",
        "rule delete pref 0",
    )
    for here in (0, 1):
        (SETTINGS / INTERFACES[here] / "accept_local").write_text("1")
        _ip(
            f"link set {INTERFACES[here]} address {ETHERNET_ADDRESSES[here]} mtu 9000 up",
            f"address add {ADDRESSES[here]}/32 dev {INTERFACES[here]}",
        )
    for here, there in ((0, 1), (1, 0)):
        _ip(
            f"route add {ADDRESSES[there]} dev {INTERFACES[here]} table {10 + here}",
            f"rule add pref {10 + here} iif lo from {ADDRESSES[here]} to {ADDRESSES[there]} lookup {10 + here}",
            _neighbour(ETHERNET_ADDRESSES[there], here, there),
        )
        devices.add(DEVICES[here], INTERFACES[here])
    try:
        yield
    finally:
        for device in DEVICES:
            devices.remove(device)
        _ip(
            f"link delete {INTERFACES[0]}",
            "rule delete pref 10",
            "rule delete pref 11",
            "rule add pref 0 lookup local",
            "rule delete pref 100",
        )


@contextmanager
def losing_packets() -> Iterator[None]:
    """What the first device sends goes to an Ethernet address that nobody has; neither end is told."""
    _ip(_neighbour(NOBODYS, 0, 1))
    try:
        yield
    finally:
        _ip(_neighbour(ETHERNET_ADDRESSES[1], 0, 1))


def _neighbour(ethernet_address: str, here: int, there: int) -> str:
    return f"neighbour replace {ADDRESSES[there]} lladdr {ethernet_address} dev {INTERFACES[here]} nud permanent"


def _ip(*commands: str) -> None:
    """All of them in one program: under emulation each takes long to start."""
    subprocess.run(["ip", "-batch", "-"], input="\n".join(commands), text=True, check=True, capture_output=True)
