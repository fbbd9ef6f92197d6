"""The description of a machine's GPUs, from pretended device files and driver folders."""

import subprocess
import sys
from pathlib import Path

import pytest

from stack import cdi
from stack.configuration.settings import REPOSITORY

VERSION = "580.159.04"


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two GPUs; a driver's folder with links of both kinds; nvidia-smi, and a script of its name that starts it."""
    devices, driver, folder = tmp_path / "dev", tmp_path / "driver", tmp_path / "lib"
    for made in (devices, driver, folder):
        made.mkdir()
    for name in ("nvidia10", "nvidia2", "nvidiactl", "nvidia-uvm", "nvidia-uvm-tools", "nvidia-modeset", "null"):
        (devices / name).touch()
    for name in ("libcuda.so", "libnvidia-ml.so", "libnvidia-gpucomp.so", "libnvidia-glcore.so"):
        (driver / f"{name}.{VERSION}").touch()
    for name in ("libcuda.so", "libnvidia-ml.so"):
        (driver / f"{name}.1").symlink_to(f"{name}.{VERSION}")
        (driver / name).symlink_to(f"{name}.1")
    (driver / "nvidia-smi").touch()
    (folder / "nvidia-smi").touch()
    monkeypatch.setattr(cdi, "DEVICES", devices)
    monkeypatch.setattr(cdi, "FOLDERS", (str(folder), str(driver)))
    monkeypatch.setattr(cdi, "PROGRAMS", (str(driver / "nvidia-smi"), str(folder / "nvidia-smi")))
    return tmp_path


def test_each_gpu_has_a_name_and_all_have_one_together(machine: Path) -> None:
    devices = {each["name"]: each["containerEdits"]["deviceNodes"] for each in cdi.description()["devices"]}
    two, ten = ({"path": str(machine / "dev" / name)} for name in ("nvidia2", "nvidia10"))
    assert devices == {"2": [two], "10": [ten], "all": [two, ten]}


def test_every_container_with_a_gpu_gets_the_drivers_control_devices_that_there_are(machine: Path) -> None:
    nodes = cdi.description()["containerEdits"]["deviceNodes"]
    assert [Path(node["path"]).name for node in nodes] == ["nvidiactl", "nvidia-uvm", "nvidia-uvm-tools"]


def test_libraries_are_mounted_read_only_under_the_names_that_programs_load(machine: Path) -> None:
    mounts = cdi.description()["containerEdits"]["mounts"]
    assert {mount["containerPath"]: mount["hostPath"] for mount in mounts} == {
        f"{cdi.INSIDE}/libcuda.so.1": str(machine / "driver" / f"libcuda.so.{VERSION}"),
        f"{cdi.INSIDE}/libnvidia-ml.so.1": str(machine / "driver" / f"libnvidia-ml.so.{VERSION}"),
        f"{cdi.INSIDE}/libnvidia-gpucomp.so.{VERSION}": str(machine / "driver" / f"libnvidia-gpucomp.so.{VERSION}"),
        "/usr/bin/nvidia-smi": str(machine / "driver" / "nvidia-smi"),
    }
    assert all("ro" in mount["options"] for mount in mounts)


@pytest.mark.parametrize(
    ("missing", "named"), [("dev/nvidia*", "no /dev/nvidia0"), ("driver/libcuda*", "no libcuda.so.1")]
)
def test_what_is_missing_is_one_line(machine: Path, missing: str, named: str) -> None:
    for file in machine.glob(missing):
        file.unlink()
    with pytest.raises(FileNotFoundError, match=named):
        cdi.description()


def test_it_runs_without_any_package() -> None:
    """As on a GPU host that has Python alone; a machine without a GPU is told so."""
    command = [sys.executable, "-S", "-I", str(REPOSITORY / "stack" / "cdi.py")]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    if ran.returncode:
        assert ran.stderr.startswith("cdi: ")
        assert len(ran.stderr.splitlines()) == 1
    else:
        assert "nvidia.com/gpu" in ran.stdout
