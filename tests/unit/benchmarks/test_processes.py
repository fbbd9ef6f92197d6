"""What a run starts is gone at its end, real processes."""

import os
import sys
from pathlib import Path

import psutil
import pytest

from benchmarks import processes
from benchmarks.errors import CannotStart
from benchmarks.processes import Launch, Processes

SLEEPS = "import time; time.sleep(600)"
DEAF = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(600)"


def launch(name: str, program: str) -> Launch:
    return Launch(name, (sys.executable, "-c", program), dict(os.environ))


def children() -> list[psutil.Process]:
    return list(psutil.Process().children())


def fail(running: Processes) -> None:
    running.start([launch("a", SLEEPS), launch("b", SLEEPS)])
    assert len(children()) >= 2
    raise ZeroDivisionError


def wait_for_the_end(running: Processes) -> None:
    while True:
        running.check()


@pytest.mark.timeout(60)
def test_everything_ends_with_the_run_also_when_it_fails(tmp_path: Path) -> None:
    before = children()
    with Processes(tmp_path) as running, pytest.raises(ZeroDivisionError):
        fail(running)
    assert children() == before


@pytest.mark.timeout(60)
def test_a_process_that_ignores_the_termination_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "END_LIMIT_S", 0.1)
    before = children()
    with Processes(tmp_path) as running:
        running.start([launch("deaf", DEAF)])
        while "deaf" not in (tmp_path / "deaf.log").read_text():
            running.check()
    assert children() == before


@pytest.mark.timeout(60)
def test_a_program_that_ends_by_itself_is_waited_for(tmp_path: Path) -> None:
    with Processes(tmp_path) as running:
        running.start([launch("load", "print('done'); raise SystemExit(3)")])
        assert running.wait("load", 30.0) == 3
        assert running.tail("load") == "done\n"
        running.start([launch("load", "")])  # its name is free again
        assert running.wait("load", 30.0) == 0


@pytest.mark.timeout(60)
def test_a_program_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    before = children()
    with Processes(tmp_path) as running:
        running.start([launch("load", SLEEPS)])
        with pytest.raises(CannotStart, match=r"load had not ended after 0\.1 s"):
            running.wait("load", 0.1)
        assert children() == before


@pytest.mark.timeout(60)
def test_a_server_that_ends_by_itself_is_named_with_the_end_of_its_log(tmp_path: Path) -> None:
    with Processes(tmp_path) as running:
        running.start([launch("upstream-producer", "print('out of memory'); raise SystemExit(3)")])
        with pytest.raises(CannotStart, match=r"(?s)upstream-producer ended with status 3.*out of memory"):
            wait_for_the_end(running)


@pytest.mark.timeout(60)
def test_one_stage_ends_and_the_others_run_on(tmp_path: Path) -> None:
    before = len(children())
    with Processes(tmp_path) as running:
        running.start([launch("single", SLEEPS), launch("pair", SLEEPS)])
        running.end(["pair"])
        assert len(children()) == before + 1
        running.check()
