"""`make test-rdma` on a machine that cannot build its guest: one line says what is missing, and the status is not 0."""

import os
import shutil
import sys
from pathlib import Path

import pytest

from tests.rdma import __main__ as test_rdma
from tests.rdma.guest import image

NEEDED = "qemu-system-x86 debootstrap e2fsprogs kmod cpio util-linux"


@pytest.fixture
def bare_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Root on a machine with nothing of what is needed. Its folder of programs, all of PATH."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, value in {"PATH": str(programs), "STACK_DIR": str(tmp_path), "STACK_ENV_FILE": "/dev/null"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(sys, "argv", ["tests.rdma"])
    return programs


def install_program(folder: Path, name: str, script: str) -> None:
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)


def refusal(capfd: pytest.CaptureFixture[str]) -> str:
    assert test_rdma.main() == 1
    (line,) = capfd.readouterr().err.splitlines()
    return line


def test_not_root(bare_machine: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    line = "test-rdma: found an ordinary user; needed root, because debootstrap does; fix: sudo make test-rdma"
    assert refusal(capfd) == line


def test_not_debian(bare_machine: Path, capfd: pytest.CaptureFixture[str]) -> None:
    line = "test-rdma: found no apt-get; needed a Debian machine, whose mirror the guest is built from"
    assert refusal(capfd) == line


def test_no_qemu_and_no_way_to_install_it(bare_machine: Path, capfd: pytest.CaptureFixture[str]) -> None:
    install_program(bare_machine, "apt-get", "exit 100")
    line = refusal(capfd)
    assert line.startswith("test-rdma: `apt-get ")
    assert line.endswith(f"failed; install by hand: sudo apt-get install --no-install-recommends {NEEDED}")


def test_only_qemu_is_missing(bare_machine: Path, capfd: pytest.CaptureFixture[str]) -> None:
    install_program(bare_machine, "apt-get", "exit 100")
    for package in image.NEEDED[1:]:
        install_program(bare_machine, package.provides, "exit 1")
    assert refusal(capfd).endswith("install by hand: sudo apt-get install --no-install-recommends qemu-system-x86")


def test_a_build_that_fails(
    bare_machine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """It leaves nothing that the next run would take for a guest."""
    install_program(bare_machine, "apt-get", "exit 100")
    for package in image.NEEDED:
        install_program(bare_machine, package.provides, "exit 1")
    install_program(bare_machine, "uv", "exit 3")
    monkeypatch.setattr(sys, "executable", shutil.which("uv"))
    assert refusal(capfd).startswith("test-rdma: building the guest failed, see above: `")
    assert not list((tmp_path / "guest").glob("*/versions"))
