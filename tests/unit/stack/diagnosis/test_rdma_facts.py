"""What the doctor reads of RDMA, from made-up kernel files."""

import resource
from pathlib import Path

import pytest

from stack.diagnosis.rdma_facts import UNKNOWN_GID, Gid, Port, Rdma, gather

LINK_LOCAL = "fe80:0000:0000:0000:5054:00ff:fe12:3456"
IPV4 = "0000:0000:0000:0000:0000:ffff:0a00:020f"


def write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text + "\n")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A RoCE card with two addresses and an InfiniBand card, and files in /dev for both."""
    roce = tmp_path / "sys/class/infiniband/mlx5_0/ports/1"
    write(roce / "state", "4: ACTIVE")
    write(roce / "link_layer", "Ethernet")
    rows = [(LINK_LOCAL, "IB/RoCE v1", "eth0"), (IPV4, "RoCE v2", "eth0"), (UNKNOWN_GID, "", "")]
    for index, (gid, kind, interface) in enumerate(rows):
        write(roce / "gids" / str(index), gid)
        if kind:
            write(roce / "gid_attrs/types" / str(index), kind)
            write(roce / "gid_attrs/ndevs" / str(index), interface)
    write(tmp_path / "sys/class/net/eth0/mtu", "1500")
    infiniband = tmp_path / "sys/class/infiniband/mlx5_1/ports/1"
    write(infiniband / "state", "1: DOWN")
    write(infiniband / "link_layer", "InfiniBand")
    write(tmp_path / "etc/libibverbs.d/mlx5.driver", "driver mlx5")
    for node, mode in (("uverbs0", 0o666), ("uverbs1", 0o660)):
        write(tmp_path / "dev/infiniband" / node, "")
        (tmp_path / "dev/infiniband" / node).chmod(mode)
    return tmp_path


def test_devices_addresses_and_who_may_open_them(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (65536, 65536))
    monkeypatch.setenv("MC_GID_INDEX", "1")
    gids = (Gid(0, LINK_LOCAL, "IB/RoCE v1"), Gid(1, IPV4, "RoCE v2"))
    assert gather("mlx5_0", 1 << 20, with_docker=True, root=root) == Rdma(
        ports=(
            Port("mlx5_0", "ACTIVE", "Ethernet", gids, "eth0", 1500),
            Port("mlx5_1", "DOWN", "InfiniBand", (), "", None),
        ),
        nodes=("uverbs0", "uverbs1"),
        closed_nodes=("uverbs1",),
        registered_bytes=1 << 20,
        locked_memory=65536,
        drivers=("mlx5",),
        gpu_direct=False,
        device_name="mlx5_0",
        gid_index="1",
    )
    assert [gid.address for gid in gids] == [LINK_LOCAL, "10.0.2.15"]
    assert [gid.routable for gid in gids] == [False, True]


def test_a_machine_without_rdma(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MC_GID_INDEX", raising=False)
    monkeypatch.setattr(resource, "getrlimit", lambda _: (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    facts = gather("", 0, with_docker=False, root=tmp_path)
    assert facts == Rdma((), (), (), 0, None, (), False, "", "")


def test_another_port_of_a_card(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MC_IB_PORT", "2")
    write(root / "sys/class/infiniband/mlx5_0/ports/2/state", "2: INIT")
    assert gather("", 0, with_docker=False, root=root).ports[0].state == "INIT"


@pytest.mark.parametrize(
    ("file", "text", "possible"),
    [
        ("sys/module/nvidia_peermem/version", "595", True),
        ("proc/driver/nvidia/version", "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  595", True),
        ("proc/driver/nvidia/version", "NVRM version: NVIDIA UNIX x86_64 Kernel Module  595", False),
    ],
)
def test_what_lets_a_device_reach_gpu_memory(tmp_path: Path, file: str, text: str, possible: bool) -> None:
    write(tmp_path / file, text)
    assert gather("", 0, with_docker=False, root=tmp_path).gpu_direct is possible
