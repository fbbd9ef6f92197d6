"""The doctor's judgement of RDMA: one row for each trouble, told from made-up facts."""

from dataclasses import replace

import pytest

from stack.diagnosis.rdma_facts import Gid, Port, Rdma
from stack.diagnosis.rdma_findings import judge

LINK_LOCAL = Gid(0, "fe80:0000:0000:0000:5054:00ff:fe12:3456", "RoCE v2")
VERSION_1 = Gid(1, "0000:0000:0000:0000:0000:ffff:0a00:020f", "IB/RoCE v1")
GOOD = Gid(3, "0000:0000:0000:0000:0000:ffff:0a00:020f", "RoCE v2")
IPV6 = Gid(2, "fd00:0000:0000:0000:0000:0000:0000:0001", "RoCE v2")
ROCE = Port("mlx5_0", "ACTIVE", "Ethernet", (LINK_LOCAL, VERSION_1, IPV6, GOOD), "eth0", 9000)
OTHER = replace(ROCE, device="mlx5_1", interface="eth1")
INFINIBAND = Port("mlx5_0", "ACTIVE", "InfiniBand", (LINK_LOCAL,), "", None)
WELL = Rdma(
    ports=(ROCE, OTHER),
    nodes=("uverbs0", "uverbs1"),
    closed_nodes=(),
    registered_bytes=512 << 20,
    locked_memory=None,
    drivers=("mlx5",),
    gpu_direct=False,
    device_name="",
    gid_index="",
)
PEERMEM = "`modprobe nvidia_peermem`, install the driver's open kernel modules, or set MOONCAKE_PROTOCOL=tcp"


def lines(facts: Rdma, *, with_docker: bool = False, on_gpu: bool = False) -> list[str]:
    return [str(finding) for finding in judge(facts, with_docker=with_docker, on_gpu=on_gpu)]


@pytest.mark.parametrize(
    "facts",
    [
        WELL,
        replace(WELL, device_name="mlx5_1,mlx5_0", gid_index="3"),
        replace(WELL, ports=(INFINIBAND,), gid_index="0"),
        replace(WELL, ports=(replace(ROCE, state="DOWN"), OTHER), device_name="mlx5_1"),
    ],
    ids=["all", "chosen", "InfiniBand", "a device down that is not used"],
)
def test_nothing_to_say_about_a_machine_that_is_well(facts: Rdma) -> None:
    assert lines(facts) == []


CASES = {
    "a device that is not there": (
        replace(WELL, device_name="mlx5_0,mlx5_7"),
        "error: MOONCAKE_DEVICE_NAME: found mlx5_7; needed some of mlx5_0, mlx5_1; "
        "fix: correct MOONCAKE_DEVICE_NAME, or load the device's driver",
    ),
    "one port down": (
        replace(WELL, ports=(ROCE, replace(OTHER, state="DOWN"))),
        "warning: RDMA device mlx5_1: found port DOWN; needed ACTIVE; "
        "fix: `ip link set eth1 up`, and look at cable and switch",
    ),
    "the only port down": (
        replace(WELL, ports=(replace(INFINIBAND, state="INIT"),)),
        "error: RDMA device mlx5_0: found port INIT; needed ACTIVE; "
        "fix: look at cable and switch; InfiniBand needs a subnet manager",
    ),
    "small packets": (
        replace(WELL, ports=(replace(ROCE, mtu=1500),)),
        "warning: RDMA device mlx5_0: found MTU 1500 of eth0; needed 4200 or more for packets of 4096 bytes; "
        "fix: `ip link set eth0 mtu 9000` on every host, and jumbo frames on the switch",
    ),
    "a GID that is not there": (
        replace(WELL, ports=(replace(ROCE, gids=(LINK_LOCAL, GOOD)),), gid_index="7"),
        "error: MC_GID_INDEX: found no GID 7 of mlx5_0; needed one of 0 (fe80:0000:0000:0000:5054:00ff:fe12:3456, "
        "RoCE v2), 3 (10.0.2.15, RoCE v2); fix: unset it, or MC_GID_INDEX=3, 10.0.2.15",
    ),
    "a GID of RoCE v1": (
        replace(WELL, ports=(replace(ROCE, gids=(VERSION_1, GOOD)),), gid_index="1"),
        "warning: MC_GID_INDEX: found 10.0.2.15, IB/RoCE v1, of mlx5_0; needed one of 1 (10.0.2.15, IB/RoCE v1), "
        "3 (10.0.2.15, RoCE v2); fix: unset it, or MC_GID_INDEX=3, 10.0.2.15",
    ),
    "no address": (
        replace(WELL, ports=(replace(ROCE, gids=(VERSION_1,)),)),
        "error: RDMA device mlx5_0: found 1 (10.0.2.15, IB/RoCE v1); needed a RoCE v2 GID of the network; "
        "fix: give eth0 an IP address: `ip address add ADDRESS/PREFIX dev eth0`",
    ),
    "little memory may be locked": (
        replace(WELL, locked_memory=8 << 20),
        "error: memlock: found 8192 KiB that may be locked; needed at least the KV cache's 524288 KiB; "
        "fix: `ulimit -l unlimited`, for good in /etc/security/limits.conf: `* - memlock unlimited`",
    ),
    "no driver for libibverbs": (
        replace(WELL, drivers=()),
        "error: ibverbs-providers: found no driver in /etc/libibverbs.d; needed the device's; "
        "fix: sudo apt-get install --no-install-recommends ibverbs-providers",
    ),
    "no device files": (
        replace(WELL, nodes=()),
        "error: /dev/infiniband: found no uverbs device; needed one for each RDMA device; "
        "fix: `modprobe ib_uverbs`; rdma-core loads it at the start",
    ),
    "closed device files": (
        replace(WELL, closed_nodes=("uverbs1",)),
        "error: /dev/infiniband/uverbs1: found closed to this user; needed readable and writable; "
        "fix: `chmod 666 /dev/infiniband/uverbs1`; for good rdma-core's udev rules",
    ),
}


@pytest.mark.parametrize(("facts", "line"), CASES.values(), ids=CASES)
def test_each_trouble_is_one_line(facts: Rdma, line: str) -> None:
    assert lines(facts) == [line]


def test_gpu_memory_needs_a_way_for_the_device() -> None:
    (line,) = lines(WELL, on_gpu=True)
    assert line.startswith("error: GPUDirect: found neither nvidia_peermem nor the open kernel modules (DMA-BUF); ")
    assert line.endswith(f"fix: {PEERMEM}")
    assert lines(replace(WELL, gpu_direct=True), on_gpu=True) == []


def test_the_overlay_lifts_the_limit_of_locked_memory_and_the_containers_user_is_another() -> None:
    facts = replace(WELL, locked_memory=8 << 20, drivers=(), closed_nodes=("uverbs0",))
    (line,) = lines(facts, with_docker=True)
    assert line.startswith("error: /dev/infiniband/uverbs0: found closed to the containers' user; ")
