"""What the doctor looks at of RDMA: devices, ports and their addresses, who may use them, and what GPUs need.

Gathered from the kernel's files under `root`, so that tests can make them. `rdma_findings.py` judges.
"""

import os
import resource
from dataclasses import dataclass
from pathlib import Path

UNKNOWN_GID = "0000:0000:0000:0000:0000:0000:0000:0000"
IPV4_MAPPED = "0000:0000:0000:0000:0000:ffff:"


@dataclass(frozen=True)
class Gid:
    """An address of a port. `kind`: `RoCE v2`, or `IB/RoCE v1`."""

    index: int
    gid: str
    kind: str

    @property
    def routable(self) -> bool:
        """What another host can reach: RoCE v2 with an address of the network, not only of the link."""
        return self.kind == "RoCE v2" and not self.gid.startswith("fe80")

    @property
    def address(self) -> str:
        """The IPv4 address where it is one."""
        if not self.gid.startswith(IPV4_MAPPED):
            return self.gid
        high, low = (int(part, 16) for part in self.gid.split(":")[-2:])
        return f"{high >> 8}.{high & 255}.{low >> 8}.{low & 255}"


@dataclass(frozen=True)
class Port:
    """Port 1 of a device, or MC_IB_PORT. `state` as the kernel names it, e.g. ACTIVE; `interface` carries RoCE and
    has an `mtu` in bytes, both empty on InfiniBand."""

    device: str
    state: str
    link_layer: str
    gids: tuple[Gid, ...]
    interface: str
    mtu: int | None


@dataclass(frozen=True)
class Rdma:
    """`nodes` of /dev/infiniband, and those closed to the instances' user; with Docker that is an ordinary user.
    `registered_bytes` is the host memory that an instance registers, `locked_memory` the limit in bytes, None for none.
    `drivers`: of libibverbs, which finds no device without the one for it; with Docker they are in the image.
    `device_name` and `gid_index` are what the settings name, empty where they name nothing."""

    ports: tuple[Port, ...]
    nodes: tuple[str, ...]
    closed_nodes: tuple[str, ...]
    registered_bytes: int
    locked_memory: int | None
    drivers: tuple[str, ...]
    gpu_direct: bool
    device_name: str
    gid_index: str


def gather(device_name: str, registered_bytes: int, *, with_docker: bool, root: Path = Path("/")) -> Rdma:
    nodes = sorted((root / "dev/infiniband").glob("uverbs*"))
    limit, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    return Rdma(
        ports=tuple(_port(device, root) for device in sorted((root / "sys/class/infiniband").glob("*"))),
        nodes=tuple(node.name for node in nodes),
        closed_nodes=tuple(node.name for node in nodes if not _may_open(node, with_docker=with_docker)),
        registered_bytes=registered_bytes,
        locked_memory=None if limit == resource.RLIM_INFINITY else limit,
        drivers=tuple(file.stem for file in sorted((root / "etc/libibverbs.d").glob("*.driver"))),
        gpu_direct=_gpu_direct(root),
        device_name=device_name,
        gid_index=os.environ.get("MC_GID_INDEX", ""),
    )


def _port(device: Path, root: Path) -> Port:
    port = device / "ports" / os.environ.get("MC_IB_PORT", "1")
    gids = []
    for file in sorted((port / "gids").glob("*"), key=lambda file: int(file.name)):
        gid = _text(file)
        if gid not in ("", UNKNOWN_GID):
            gids.append(Gid(int(file.name), gid, _text(port / "gid_attrs/types" / file.name)))
    interface = next((name for gid in gids if (name := _text(port / "gid_attrs/ndevs" / str(gid.index)))), "")
    mtu = _text(root / "sys/class/net" / interface / "mtu") if interface else ""
    return Port(
        device=device.name,
        state=_text(port / "state").partition(": ")[2],
        link_layer=_text(port / "link_layer"),
        gids=tuple(gids),
        interface=interface,
        mtu=int(mtu) if mtu else None,
    )


def _may_open(node: Path, *, with_docker: bool) -> bool:
    if with_docker:
        return node.stat().st_mode & 0o006 == 0o006
    return os.access(node, os.R_OK | os.W_OK)


def _gpu_direct(root: Path) -> bool:
    """A device reaches GPU memory through nvidia_peermem, or through DMA-BUF, which the open kernel modules have."""
    peermem = (root / "sys/module/nvidia_peermem").is_dir()
    return peermem or "Open Kernel Module" in _text(root / "proc/driver/nvidia/version")


def _text(file: Path) -> str:
    """Empty where there is nothing to read: the kernel answers EINVAL for an empty row of a table."""
    try:
        return file.read_text().strip()
    except OSError:
        return ""
