import os
from pathlib import Path

import pytest

from connector.mooncake import transports
from connector.mooncake.transports import TRANSPORTS, candidates, choose, host_identity, obstacle, prepare_environment

ALL = ["nvlink_intra", "rdma", "tcp"]


@pytest.mark.parametrize(
    ("ours", "theirs", "same_host", "chosen"),
    [
        (ALL, ALL, True, "nvlink_intra"),
        (ALL, ALL, False, "rdma"),
        (ALL, ["tcp", "nvlink_intra"], False, "tcp"),
        (["tcp", "rdma"], ["rdma", "tcp"], True, "rdma"),
        (["tcp"], ALL, True, "tcp"),
        (["nvlink_intra"], ["nvlink_intra"], True, "nvlink_intra"),
        (["nvlink_intra"], ["nvlink_intra"], False, None),
        (["rdma"], ["tcp"], True, None),
        (["rdma"], [], True, None),
    ],
)
def test_the_best_that_both_have(ours: list[str], theirs: list[str], same_host: bool, chosen: str | None) -> None:
    assert choose(ours, theirs, same_host) == chosen
    assert choose(theirs, ours, same_host) == chosen


def test_auto_tries_all_of_them_best_first() -> None:
    assert candidates("auto") == ALL
    assert candidates("rdma") == ["rdma"]


def test_a_host_is_one_boot_and_one_pid_namespace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = host_identity()
    assert host_identity() == here
    (tmp_path / "namespace").touch()
    with monkeypatch.context() as other:
        other.setattr(transports, "NAMESPACE", tmp_path / "namespace")
        assert host_identity() != here
    (tmp_path / "boot_id").write_text("0b1c\n")
    monkeypatch.setattr(transports, "BOOT_ID", tmp_path / "boot_id")
    assert host_identity().startswith("0b1c-")


def test_containers_of_one_host_that_see_different_gpus_are_no_hosts_of_nvlink_intra_to_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    for gpus in (["nvidia0"], ["nvidia1"], ["nvidia0", "nvidia1"], ["nvidia0"]):
        devices = tmp_path / str(len(seen))
        devices.mkdir()
        for name in (*gpus, "nvidiactl", "nvidia-uvm"):
            (devices / name).touch()
        monkeypatch.setattr(transports, "DEVICES", devices)
        seen.append(host_identity())
    first, second, both, again = seen
    assert len({first, second, both}) == 3
    assert again == first


@pytest.mark.parametrize(
    ("transport", "device_name", "cuda_build", "line"),
    [
        ("tcp", "", False, ""),
        ("tcp", "mlx5_9", False, ""),
        ("nvlink_intra", "", True, ""),
        (
            "nvlink_intra",
            "",
            False,
            "MOONCAKE_PROTOCOL='nvlink_intra': expected the CUDA builds of vLLM and Mooncake, found those for CPUs",
        ),
        ("rdma", "", False, ""),
        ("rdma", "mlx5_0", False, ""),
        ("rdma", "mlx5_1,mlx5_0", False, ""),
        (
            "rdma",
            "mlx5_0,mlx5_9,eth0",
            False,
            "MOONCAKE_DEVICE_NAME='mlx5_0,mlx5_9,eth0': expected some of mlx5_0, mlx5_1, found no eth0, mlx5_9",
        ),
    ],
)
def test_what_this_machine_cannot_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, transport: str, device_name: str, cuda_build: bool, line: str
) -> None:
    for device in ("mlx5_0", "mlx5_1"):
        (tmp_path / device).mkdir()
    monkeypatch.setattr(transports, "RDMA_DEVICES", tmp_path)
    assert obstacle(transport, device_name, cuda_build) == line


def test_rdma_without_a_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in (tmp_path, tmp_path / "not there"):
        monkeypatch.setattr(transports, "RDMA_DEVICES", folder)
        line = f"MOONCAKE_PROTOCOL='rdma': expected an RDMA device in {folder}, found none"
        assert obstacle("rdma", "", False) == line


NO_GID, LINK_LOCAL = "0000:0000:0000:0000:0000:0000:0000:0000", "fe80:0000:0000:0000:5054:00ff:fe12:3456"


@pytest.mark.parametrize(
    ("index", "device_name", "line"),
    [
        ("", "", ""),
        ("0", "mlx5_0,mlx5_1", ""),
        ("1", "mlx5_0", ""),
        ("1", "", "MC_GID_INDEX='1': expected one of 0, which mlx5_1 has"),
        ("7", "mlx5_0", "MC_GID_INDEX='7': expected one of 0, 1, which mlx5_0 has"),
        ("one", "mlx5_0", "MC_GID_INDEX='one': expected one of 0, 1, which mlx5_0 has"),
    ],
)
def test_a_gid_that_a_device_does_not_have(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, index: str, device_name: str, line: str
) -> None:
    for device, gids in (("mlx5_0", [LINK_LOCAL, LINK_LOCAL, NO_GID]), ("mlx5_1", [LINK_LOCAL, NO_GID])):
        table = tmp_path / device / "ports/1/gids"
        table.mkdir(parents=True)
        for number, gid in enumerate(gids):
            (table / str(number)).write_text(f"{gid}\n")
    monkeypatch.setattr(transports, "RDMA_DEVICES", tmp_path)
    monkeypatch.setattr(os, "environ", {"MC_GID_INDEX": index} if index else {})
    assert obstacle("rdma", device_name, False) == line


@pytest.mark.parametrize("transport", ALL)
def test_an_engine_finds_one_forcing_variable(transport: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as changed:
        changed.setattr(os, "environ", {"MC_TCP_LANES_PER_PEER": "2", "MC_TRANSFER_TIMEOUT": "99"})
        for opened in (*ALL, transport):  # other engines of this process came before
            prepare_environment(opened, "10.0.0.1", write_timeout=30)
        forced = [other.forced_by for other in TRANSPORTS.values() if other.forced_by in os.environ]
        assert forced == [TRANSPORTS[transport].forced_by]
        assert os.environ["MC_TCP_LANES_PER_PEER"] == "2", "an operator's value stays"
        assert os.environ["MC_TCP_BIND_ADDRESS"] == "10.0.0.1"


@pytest.mark.parametrize(("host", "switched_on"), [("fd00::7", True), ("10.0.0.1", False)])
def test_an_address_of_ipv6_switches_it_on(host: str, switched_on: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", {})
    prepare_environment("rdma", host, write_timeout=30)
    assert os.environ["MC_TCP_BIND_ADDRESS"] == host, "without brackets, or Mooncake looks for a host of that name"
    assert ("MC_USE_IPV6" in os.environ) is switched_on


def test_a_hanging_peer_cannot_outlast_the_write_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", {})
    prepare_environment("tcp", "10.0.0.1", write_timeout=30)
    rounds = TRANSPORTS["tcp"].window / int(os.environ["MC_TCP_LANES_PER_PEER"])
    assert rounds * int(os.environ["MC_TCP_PROGRESS_TIMEOUT_SEC"]) < 30 - rounds  # a second to connect again each time
    assert os.environ["MC_TRANSFER_TIMEOUT"] == "30"
