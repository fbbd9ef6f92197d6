"""What the doctor says of real devices, well and broken, when it is started as a user starts it."""

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.rdma.inside import devices
from tests.rdma.inside.ranks import REPOSITORY

LIMIT_S = 100


def rdma_lines(*prefix: str, **variables: str) -> list[str]:
    """Errors and warnings of a doctor that is asked for RDMA, without those of memory, disk and so on."""
    environment = {"STACK_MODE": "processes", "STACK_DIR": "/tmp", "STACK_ENV_FILE": "/dev/null"}
    result = subprocess.run(
        [*prefix, sys.executable, "-m", "stack.doctor"],
        cwd=REPOSITORY,
        env={**os.environ, **environment, "MOONCAKE_PROTOCOL": "rdma", **variables},
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    lines = (result.stdout + result.stderr).splitlines()
    assert any(line.startswith("doctor: ") for line in lines), result.stderr
    return [line for line in lines if any(word in line for word in ("RDMA", "GID", "memlock", "infiniband", "DEVICE"))]


@pytest.fixture
def dummy0() -> Iterator[str]:
    devices.add_interface("dummy0", "10.0.3.15/24")
    devices.add("rxe1", "dummy0")
    yield "dummy0"
    devices.remove("rxe1")


def test_a_good_device_is_nothing_to_talk_about() -> None:
    assert rdma_lines() == []


@pytest.mark.parametrize(
    ("prefix", "variables", "beginning", "end"),
    [
        ((), {"MC_GID_INDEX": "7"}, "error: MC_GID_INDEX: found no GID 7 of rxe0;", "or MC_GID_INDEX=1, 10.0.2.15"),
        ((), {"MC_GID_INDEX": "0"}, "warning: MC_GID_INDEX: found fe80:", "or MC_GID_INDEX=1, 10.0.2.15"),
        ((), {"MOONCAKE_DEVICE_NAME": "mlx5_0"}, "error: MOONCAKE_DEVICE_NAME: found mlx5_0; needed some of rxe0;", ""),
        (("prlimit", "--memlock=65536"), {}, "error: memlock: found 64 KiB that may be locked;", "memlock unlimited`"),
    ],
)
def test_each_trouble_is_one_line(prefix: tuple[str, ...], variables: dict[str, str], beginning: str, end: str) -> None:
    (line,) = rdma_lines(*prefix, **variables)
    assert line.startswith(beginning)
    assert line.endswith(end)


def test_a_device_without_an_address_and_with_small_packets(dummy0: str) -> None:
    devices.break_interface(dummy0)
    small, no_address = rdma_lines()
    assert small.startswith(
        "warning: RDMA device rxe1: found MTU 1500 of dummy0; needed 4200 or more for packets of 4096"
    )
    assert no_address.startswith("error: RDMA device rxe1: found 0 (fe80:")
    assert no_address.endswith("fix: give dummy0 an IP address: `ip address add ADDRESS/PREFIX dev dummy0`")


def test_devices_that_are_down_or_closed(dummy0: str) -> None:
    devices.link_down(dummy0)
    node = "/dev/infiniband/uverbs1"
    os.chmod(node, 0o600)
    ordinary = ("setpriv", "--reuid=10001", "--regid=10001", "--clear-groups")
    lines = rdma_lines(*ordinary)
    assert [line.partition(";")[0] for line in lines] == [
        "warning: RDMA device rxe1: found port DOWN",
        "error: /dev/infiniband/uverbs1: found closed to this user",
    ]


def test_no_device() -> None:
    devices.remove("rxe0")
    try:
        (line,) = rdma_lines()
    finally:
        devices.add("rxe0", "eth0")
    assert line.startswith("error: RDMA: found nothing in /sys/class/infiniband;")
