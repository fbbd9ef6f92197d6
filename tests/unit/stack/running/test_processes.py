"""The processes-only way with a real supervisord and small stand-ins for the services."""

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from stack.configuration.settings import StackSettings
from stack.running import processes as module
from stack.running.processes import Processes, StartError
from stack.running.service import Service
from tests.unit.stack.waiting import free_port, until

STAND_IN = Path(__file__).with_name("stand_in_service.py")


def service(name: str, behaviour: str) -> Service:
    port = free_port()
    return Service(name, (sys.executable, str(STAND_IN), behaviour, str(port)), (port,), "PORT", "/health", grace_s=5)


@pytest.fixture
def chosen(monkeypatch: pytest.MonkeyPatch) -> list[Service]:
    """The services that the stack consists of; a test may change the list before it calls `up`."""
    services = [service("etcd", "well"), service("decode", "well")]
    monkeypatch.setattr(module, "services", lambda _: tuple(services))
    return services


@pytest.fixture
def stack(tmp_path: Path, chosen: list[Service]) -> Iterator[Processes]:
    stack = Processes(StackSettings(stack_dir=tmp_path / "with blank", stack_start_timeout_s=60))
    stack.settings.stack_dir.mkdir()
    yield stack
    stack.down()


def alive(stack: Processes) -> list[psutil.Process]:
    return [process for process in stack.supervisor.family() if process.status() != psutil.STATUS_ZOMBIE]


def pid_of(stack: Processes, name: str) -> int:
    return next(process.pid for process in stack.supervisor.processes() if process.name == name)


def test_up_waits_until_everything_answers_and_down_leaves_nothing(stack: Processes, chosen: list[Service]) -> None:
    stack.up()

    assert [(row[0], row[1], row[2]) for row in stack.status()[1:]] == [
        ("etcd-0", "RUNNING", "healthy"),
        ("decode-0", "RUNNING", "healthy"),
    ]
    assert len(alive(stack)) == 4  # each with its child

    stack.down()

    assert alive(stack) == []
    assert not stack.is_up()
    assert [path.name for path in stack.settings.stack_dir.iterdir()] == ["logs"]


def test_a_second_up_changes_nothing(stack: Processes, capsys: pytest.CaptureFixture[str]) -> None:
    stack.up()
    pids = {process.pid for process in alive(stack)}

    stack.up()

    assert {process.pid for process in alive(stack)} == pids
    assert "already running" in capsys.readouterr().out


def test_a_second_up_says_that_settings_changed(
    stack: Processes, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stack.up()
    monkeypatch.setenv("MAX_MODEL_LEN", "1234")

    stack.up()

    assert "make down" in capsys.readouterr().out


def test_a_second_up_starts_what_was_stopped(stack: Processes) -> None:
    stack.up()
    stack.supervisor.stop_service("decode")
    until(lambda: pid_of(stack, "decode-0") == 0)

    stack.up()

    assert pid_of(stack, "decode-0") != 0


def test_a_service_that_is_killed_comes_back_and_no_other_restarts(stack: Processes) -> None:
    stack.up()
    etcd, decode = pid_of(stack, "etcd-0"), pid_of(stack, "decode-0")

    os.kill(decode, signal.SIGKILL)

    until(lambda: pid_of(stack, "decode-0") not in (0, decode))
    assert pid_of(stack, "etcd-0") == etcd


def test_a_service_that_dies_while_starting_is_shown_with_its_last_words(
    stack: Processes, chosen: list[Service], capsys: pytest.CaptureFixture[str]
) -> None:
    chosen[1] = service("decode", "broken")

    with pytest.raises(StartError, match="decode-0: died while starting"):
        stack.up()

    assert "no such model: nowhere/nothing" in capsys.readouterr().err
    assert alive(stack) == []
    assert not stack.run.exists()


def test_a_service_that_never_answers_is_named_after_the_limit(stack: Processes, chosen: list[Service]) -> None:
    chosen[1] = service("decode", "silent")
    # Within it the others have to answer, on a busy machine too.
    impatient = Processes(stack.settings.model_copy(update={"stack_start_timeout_s": 6.0}))

    with pytest.raises(StartError, match=r"STACK_START_TIMEOUT_S.*decode-0"):
        impatient.up()


def test_what_a_killed_service_leaves_behind_ends_with_down(stack: Processes) -> None:
    stack.up()
    decode = psutil.Process(pid_of(stack, "decode-0"))
    (orphan,) = decode.children()

    decode.kill()
    until(lambda: pid_of(stack, "decode-0") not in (0, decode.pid))
    assert orphan.is_running()
    stack.down()

    assert not orphan.is_running()


def test_services_end_with_a_killed_supervisor_and_down_clears_what_is_left(stack: Processes) -> None:
    stack.up()
    services = [psutil.Process(pid_of(stack, name)) for name in ("etcd-0", "decode-0")]
    assert stack.has_run()

    os.kill(stack.supervisor.pid, signal.SIGKILL)

    _, left = psutil.wait_procs(services, timeout=20)
    assert left == []
    stack.down()
    assert alive(stack) == []
    assert not stack.has_run()


def test_down_without_a_run_is_harmless(stack: Processes) -> None:
    stack.down()
    stack.down()


def test_logs_are_chosen_by_service(stack: Processes) -> None:
    stack.up()

    assert [file.name for file in stack.log_files(["decode"])] == ["decode-0.log"]
    assert [file.name for file in stack.log_files([])] == ["decode-0.log", "etcd-0.log"]
    until(lambda: "listening" in stack.log_files(["decode"])[0].read_text())
