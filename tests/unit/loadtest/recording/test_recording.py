"""What a run leaves behind, however it ends: `python -m loadtest --headless` against a scripted server."""

import asyncio
import signal
import threading
from pathlib import Path
from typing import Any

import pytest

from loadtest.report.__main__ import main as make_reports
from loadtest.runs.run_folder import FILES, Run
from tests.unit.loadtest.locust_process import start_headless
from tests.unit.loadtest.scripted_server import MODEL, Script, ScriptedServer, Step, after, completion, text

LIMIT_S = 60


class AnswersSome:
    """So many whole answers; `stands` is set when every user waits for one that does not end.

    A user asks again when its last request is recorded, so by then all answers are.
    """

    def __init__(self, answers: int, users: int) -> None:
        self._left = answers
        self._asking = users
        self.stands = threading.Event()

    def __call__(self, body: dict[str, Any]) -> Script:
        if self._left:
            self._left -= 1
            return completion(3)
        self._asking -= 1
        if not self._asking:
            self.stands.set()
        return Script([Step(text("a")), Step(text("b"), wait=asyncio.Event().wait)])


def completed(records: list[Any]) -> int:
    return sum(record.outcome == "completed" for record in records)


def test_a_run_leaves_its_files(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with ScriptedServer(lambda _: completion(3)).running() as server:
        options = ("--arrivals", "constant", "--rate", "10", "--requests", "20", "--warmup", "0.5", "--seed", "3")
        finished = start_headless(server.url, folder, *options, LOADTEST_WORKERS="2").wait()
    assert finished.exit_code == 0, finished.log
    assert sorted(file.name for file in folder.iterdir()) == sorted(FILES)
    run = Run.read(folder)
    assert run.summary is not None
    assert run.summary.outcomes == {"completed": 15, "failed": 0, "cut_off": 0, "cancelled": 0}
    assert run.summary.offered_per_s == pytest.approx(10.0, rel=0.01)
    told = run.manifest
    assert (told.target, told.models, told.workers, told.seed) == (server.url, [MODEL], 2, 3)
    assert told.ended_at is not None
    assert run.settings["LOADTEST_RATE"] == 10.0


@pytest.mark.parametrize("workers", ["1", "2"])
def test_the_load_is_over_before_its_answers(tmp_path: Path, workers: str) -> None:
    """Rates are of the time in which load was offered; its length is known and does not depend on the answers."""
    folder = tmp_path / "run"
    with ScriptedServer(lambda _: completion(3, after(0.0), after(1.0))).running() as server:
        options = ("--arrivals", "constant", "--rate", "10", "-t", "2s")
        finished = start_headless(server.url, folder, *options, LOADTEST_WORKERS=workers).wait()
    assert finished.exit_code == 0, finished.log
    run = Run.read(folder)
    assert run.summary is not None
    assert (run.manifest.load_s, run.summary.until_s) == (2.0, 2.0)
    assert run.summary.requests == 20
    assert run.summary.offered_per_s == 10.0


def test_a_second_run_has_a_folder_of_its_own(tmp_path: Path) -> None:
    with ScriptedServer(lambda _: completion(1)).running() as server:
        for _ in range(2):
            start_headless(server.url, tmp_path / "run", "--requests", "1").wait()
    assert sorted(folder.name for folder in tmp_path.iterdir()) == ["run", "run-2"]
    assert len((tmp_path / "run" / "requests.jsonl").read_bytes().splitlines()) == 1


@pytest.mark.parametrize("workers", ["1", "2"])
def test_an_interrupted_run_loses_nothing(tmp_path: Path, workers: str) -> None:
    answer = AnswersSome(answers=10, users=2)
    with ScriptedServer(answer).running() as server:
        variables = {"LOADTEST_WORKERS": workers, "LOADTEST_DRAIN_S": "0"}
        run = start_headless(server.url, tmp_path / "run", "-u", "2", "-r", "2", **variables)
        assert answer.stands.wait(LIMIT_S)
        run.process.send_signal(signal.SIGTERM)
        finished = run.wait()
    assert completed(finished.records) == 10, finished.log
    summary = Run.read(tmp_path / "run").summary
    assert summary is not None
    assert summary.outcomes["completed"] == 10
    assert "| completed | 10 |" in (tmp_path / "run" / "report.md").read_text()


def test_a_killed_run_leaves_what_had_ended(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    answer = AnswersSome(answers=5, users=1)
    with ScriptedServer(answer).running() as server:
        run = start_headless(server.url, folder)
        assert answer.stands.wait(LIMIT_S)
        run.process.kill()
        finished = run.wait()
    assert completed(finished.records) == 5
    assert Run.read(folder).summary is None
    assert make_reports([str(folder)]) == 0
    text = (folder / "report.md").read_text()
    assert "The run was killed" in text
    assert "| completed | 5 |" in text


def test_a_folder_that_cannot_be_written_stops_the_test(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with ScriptedServer(lambda _: completion(1)).running() as server:
        finished = start_headless(server.url, tmp_path / "file" / "run", "-t", "20s").wait()
    assert finished.exit_code == 1, finished.log
    assert "cannot write there: Not a directory" in finished.log
    assert "Traceback" not in finished.log
    assert not server.bodies
