"""`make test-k8s` where the cluster cannot be built or run: one line says what is missing, and the status is not 0."""

import os
import sys
from pathlib import Path

import pytest

from tests.k8s import __main__ as test_k8s
from tests.k8s.cluster import binaries


@pytest.fixture
def bare_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Root on a machine with nothing of what is needed. Its folder of programs, all of PATH."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, value in {"PATH": str(programs), "STACK_DIR": str(tmp_path), "STACK_ENV_FILE": "/dev/null"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(sys, "argv", ["tests.k8s"])
    return programs


def install_program(folder: Path, name: str, script: str) -> None:
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)


def refusal(capfd: pytest.CaptureFixture[str]) -> str:
    assert test_k8s.main() == 1
    (line,) = capfd.readouterr().err.splitlines()
    return line


def test_not_root(bare_machine: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    line = "test-k8s: found an ordinary user; needed root, because nodes do; fix: sudo make test-k8s"
    assert refusal(capfd) == line


def test_not_debian(bare_machine: Path, capfd: pytest.CaptureFixture[str]) -> None:
    line = "test-k8s: found no apt-get; needed a Debian machine, whose mirror has the servers' sources"
    assert refusal(capfd) == line


def test_something_is_missing_and_cannot_be_installed(bare_machine: Path, capfd: pytest.CaptureFixture[str]) -> None:
    install_program(bare_machine, "apt-get", "exit 100")
    for package in binaries.NEEDED[:-1]:
        install_program(bare_machine, package.provides, "exit 1")
    line = refusal(capfd)
    assert line.startswith("test-k8s: `apt-get ")
    assert line.endswith("install by hand: sudo apt-get install --no-install-recommends build-essential")


def test_a_build_that_fails(
    bare_machine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """It leaves nothing that the next run would take for a cluster."""
    install_program(bare_machine, "apt-get", "exit 100")
    for package in binaries.NEEDED:
        install_program(bare_machine, package.provides, "exit 1")
    install_program(bare_machine, "bash", "exit 3")
    assert refusal(capfd).startswith("test-k8s: building the cluster failed, see above: `bash ")
    assert not list((tmp_path / "kubernetes").glob("*/complete"))


def test_no_engine_to_build_images_with(
    bare_machine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(binaries, "prepare", lambda cache: tmp_path)
    install_program(bare_machine, "docker", "exit 1")
    line = "test-k8s: found no Docker engine that answers; needed one to build images; fix: sh .ci/docker.sh"
    assert refusal(capfd) == line
