"""bootstrap.sh, on a copy of the repository's first steps: it makes `tools` once, and says what is missing."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from stack.configuration.settings import REPOSITORY

USED_PROGRAMS = ("sh", "dirname", "sha256sum", "cut", "cat", "mkdir", "rm", "flock", "id")


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A folder with the script, a lock that asks for nothing, and `bin`: the only programs that it can see."""
    clone = tmp_path / "a clone"
    (clone / "stack").mkdir(parents=True)
    shutil.copy(REPOSITORY / "stack" / "bootstrap.sh", clone / "stack")
    (clone / "stack" / "requirements.lock").write_text("# nothing\n")
    (clone / "bin").mkdir()
    for program in USED_PROGRAMS:
        found = shutil.which(program)
        assert found is not None, program
        (clone / "bin" / program).symlink_to(found)
    return clone


def bootstrap(clone: Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        ["sh", str(clone / "stack" / "bootstrap.sh")],
        cwd="/",
        env={**os.environ, "PATH": str(clone / "bin"), "PIP_NO_INDEX": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_tools_is_made_once_and_anew_for_another_lock(clone: Path) -> None:
    (clone / "bin" / "python3.11").symlink_to(Path(sys.executable).resolve())
    tools = clone / ".stack" / "venv" / "tools"

    first = bootstrap(clone)

    assert first.returncode == 0, first.stderr
    assert (tools / "bin" / "python").exists()
    second = bootstrap(clone)
    assert (second.returncode, second.stdout, second.stderr) == (0, "", "")
    (clone / "stack" / "requirements.lock").write_text("# nothing, in other words\n")
    assert "installing" in bootstrap(clone).stdout


def test_without_python_one_line_says_what_to_install(clone: Path) -> None:
    result = bootstrap(clone)

    assert result.returncode != 0
    assert result.stderr == (
        "Python: found none >= 3.11; needed to start; fix: sudo apt-get install python3.11 python3.11-venv\n"
    )


def test_an_old_python_is_passed_over(clone: Path) -> None:
    old = clone / "bin" / "python3"
    old.write_text("#!/bin/sh\nexit 1\n")  # what `sys.exit(version < (3, 11))` of an old one gives
    old.chmod(0o755)

    assert bootstrap(clone).stderr.startswith("Python: found none >= 3.11")
