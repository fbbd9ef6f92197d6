"""System libraries are recognised by loading them, and a person is told how to get what is missing."""

import subprocess
from pathlib import Path
from typing import Any

import pytest

from stack.configuration.settings import StackSettings
from stack.installation import system_libraries
from stack.installation.system_libraries import MissingLibraryError, SystemPackage, install, missing

THERE = (
    SystemPackage("libc6", "library", "libc.so.6", "everything"),
    SystemPackage("coreutils", "program", "cat", "everything"),
)
ABSENT = (
    SystemPackage("libnowhere1", "library", "libnowhere.so.1", "a test"),
    SystemPackage("nowhere", "program", "no-such-program", "a test"),
)


def test_what_is_missing() -> None:
    assert missing([*THERE, *ABSENT]) == ABSENT


def test_nothing_is_installed_where_nothing_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(system_libraries, "apt_may_install", lambda: pytest.fail("apt was thought of"))

    install(THERE)


def test_one_line_says_what_to_install_where_apt_may_not_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(system_libraries, "apt_may_install", lambda: False)

    with pytest.raises(MissingLibraryError) as told:
        install(ABSENT)

    assert str(told.value) == (
        "missing from the system: libnowhere1, nowhere; "
        "install with: sudo apt-get install --no-install-recommends libnowhere1 nowhere"
    )


@pytest.mark.parametrize("own", [None, "#!/bin/sh\nexit 0\n"], ids=["no policy", "a policy of the machine's own"])
def test_no_service_is_started_by_being_installed(
    own: str | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    policy = tmp_path / "policy-rc.d"
    if own is not None:
        policy.write_text(own)
    while_installing = []

    def run(command: list[str], **_: Any) -> "subprocess.CompletedProcess[str]":
        while_installing.append(policy.read_text())
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(system_libraries, "POLICY", policy)
    monkeypatch.setattr(system_libraries, "apt_may_install", lambda: True)
    monkeypatch.setattr(subprocess, "run", run)
    install(ABSENT)

    assert while_installing == [own or system_libraries.NO_SERVICE] * 2
    assert (policy.read_text() if policy.exists() else None) == own


def test_prometheus_is_needed_where_it_is_asked_for() -> None:
    names = {each.package for each in system_libraries.for_processes(StackSettings())}
    observed = StackSettings(compose_file="compose.yaml:compose.observability.yaml")
    assert {each.package for each in system_libraries.for_processes(observed)} - names == {"prometheus"}
