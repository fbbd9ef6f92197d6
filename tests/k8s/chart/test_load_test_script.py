"""The script of the load test's pod, with a program in Python's place: whose status it ends with, and when."""

import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from deploy.values_schema import CHART

SCRIPT = CHART / "files" / "run-load-test.sh"
LIMIT_S = 30
STATUS = 3
# Asked for its health the target is not ready at first; then a test leaves a report and fails.
PYTHON = f"""#!/bin/sh
echo "$@" >>"$STACK_DIR/calls"
if [ "$2" = stack.health ]; then exit "$(($(wc -l <"$STACK_DIR/calls") < 2))"; fi
mkdir -p "$STACK_DIR/runs/new" && echo "# the report" >"$STACK_DIR/runs/new/report.md"
exit {STATUS}
"""
Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start(tmp_path: Path) -> Start:
    (tmp_path / "runs").mkdir()
    (tmp_path / "python").write_text(PYTHON)
    (tmp_path / "python").chmod(0o755)

    def started(**variables: str) -> "subprocess.Popen[str]":
        given = {
            "STACK_DIR": str(tmp_path),
            "PATH": f"{tmp_path}:{os.environ['PATH']}",
            "TARGET_READY": "",
            **variables,
        }
        command = ["sh", "-c", SCRIPT.read_text(), "loadtest", "--users", "10"]
        return subprocess.Popen(command, env=given, stdout=subprocess.PIPE, text=True)

    return started


def test_it_waits_for_the_target_and_ends_with_the_tests_status_and_report(start: Start, tmp_path: Path) -> None:
    process = start(TARGET_READY="http://proxy/ready", KEEP_S="0")
    told, _ = process.communicate(timeout=LIMIT_S)
    assert process.returncode == STATUS
    assert told == "# the report\n"
    asked = "-m stack.health http://proxy/ready"
    assert (tmp_path / "calls").read_text().splitlines() == [asked, asked, "-m loadtest --headless --users 10"]


def test_it_keeps_the_report_until_it_is_fetched(start: Start, tmp_path: Path) -> None:
    process = start(KEEP_S="600")
    _wait_for(tmp_path / "runs" / "new" / "report.md")
    assert process.poll() is None
    (tmp_path / "runs" / "fetched").touch()
    process.communicate(timeout=LIMIT_S)
    assert process.returncode == STATUS


def test_it_ends_when_it_is_told_to(start: Start, tmp_path: Path) -> None:
    process = start(KEEP_S="600")
    _wait_for(tmp_path / "runs" / "new" / "report.md")
    process.terminate()
    process.communicate(timeout=LIMIT_S)
    assert process.returncode == 143


def _wait_for(file: Path) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not file.exists():
        assert time.monotonic() < deadline, f"{file} did not come"
        time.sleep(0.05)
