"""A comparison from its start to its page, over a scripted stack and a scripted load test: order, resuming, ending."""

import json
import signal
import sys
from pathlib import Path

import psutil
import pytest

from benchmarks.processes import Processes
from benchmarks.serving import __main__ as program
from benchmarks.serving.measured import MeasuredRuns
from benchmarks.serving.plan import AGGREGATED, DISAGGREGATED, Measurement
from benchmarks.serving.points import PROMPTS, STREAMS, points
from benchmarks.serving.report import document
from benchmarks.whole_stack import headless, stack_side
from benchmarks.whole_stack.run_folders import MARK
from loadtest.figures.record import RequestRecord
from loadtest.runs.requests_file import RequestsFile
from tests.unit.benchmarks.serving import scripted_stack
from tests.unit.benchmarks.serving.scripted_stack import MANIFEST, SUMMARY

BASELINE = "up compose.yaml:compose.baseline.yaml"


class Comparison:
    """The program with all it starts replaced, in a folder of its own."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self._monkeypatch = folder, monkeypatch
        self.results = folder / "results"
        script = folder / "python"
        script.write_text(f'#!/bin/sh\nexec {sys.executable} -S {scripted_stack.__file__} "$@"\n')
        script.chmod(0o755)
        self._script = script
        monkeypatch.setattr(headless, "LOAD_TEST", (str(script), "load-test"))
        monkeypatch.setattr(signal, "signal", lambda number, handler: None)  # the handlers of this process stay
        monkeypatch.setattr(program, "code_fingerprint", lambda *_: "the same code")  # somebody may edit it meanwhile
        monkeypatch.setattr(document, "charts", lambda shown: "")  # seconds of each test; test_page.py has them
        for name in ("COMPOSE_FILE", "MAX_MODEL_LEN"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("STACK_ENV_FILE", "/dev/null")
        monkeypatch.setenv("STACK_MODE", "processes")
        monkeypatch.setenv("SCRIPTED_LOG", str(folder / "log"))

    def run(self, *words: str) -> tuple[int, list[str]]:
        """Its status, and what it asked for; the first requests of every start are left out."""
        (self.folder / "log").write_text("")
        folders = ["--results", str(self.results), "--work", str(self.folder / "w")]
        own = ["--stack-python", str(self._script), "--seconds", "1", "--warmup", "0.1"]
        self._monkeypatch.setattr(sys, "argv", ["benchmarks.serving", "--points", "9/9@0.5,2", *words, *folders, *own])
        status = program.main()
        asked = (self.folder / "log").read_text().splitlines()
        return status, [line for line in asked if not line.startswith("load 1 ")]

    def page(self) -> str:
        (file,) = self.results.glob("*.md")
        return file.read_text()


@pytest.fixture
def comparison(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Comparison:
    return Comparison(tmp_path, monkeypatch)


@pytest.mark.timeout(60)
def test_both_sides_get_the_same_requests_and_are_ended(comparison: Comparison) -> None:
    before = {process.pid for process in psutil.Process().children(recursive=True)}
    status, asked = comparison.run()
    assert status == 0
    points_of_a_side = ["load 0.5 0", "load 2 1"]
    assert asked == ["up compose.yaml", *points_of_a_side, "down", BASELINE, *points_of_a_side, "down"]
    assert {process.pid for process in psutil.Process().children(recursive=True)} == before
    assert "ended: complete" in comparison.page()
    assert "| 9/9 | 0.5 | all |" in comparison.page()
    assert {file.suffix for file in comparison.results.iterdir()} == {".md", ".json", ".html"}


@pytest.mark.timeout(60)
def test_what_was_measured_before_an_interruption_is_not_measured_again(
    comparison: Comparison, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SCRIPTED_FAILS", "2")
    status, asked = comparison.run()
    assert status == 1
    assert asked == ["up compose.yaml", "load 0.5 0", "load 2 1", "down"]
    captured = capsys.readouterr()
    assert "the load test ended with status 2 at 9/9@2" in captured.err
    assert "no model is served" in captured.err
    assert "ended: the load test ended with status 2" in comparison.page()
    monkeypatch.delenv("SCRIPTED_FAILS")
    status, asked = comparison.run()
    assert status == 0
    assert asked == ["up compose.yaml", "load 2 1", "down", BASELINE, "load 0.5 0", "load 2 1", "down"]
    assert "1 of 4 points were measured before" in capsys.readouterr().out
    assert "ended: complete" in comparison.page()  # in the same file
    assert comparison.run() == (0, [])
    assert len(comparison.run("--fresh")[1]) == 8


@pytest.mark.timeout(60)
def test_a_point_that_lost_a_server_is_measured_again(
    comparison: Comparison, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(stack_side, "REGISTRATION_LIMIT_S", 5.0)
    monkeypatch.setenv("SCRIPTED_LOSES", "2")
    status, asked = comparison.run()
    assert status == 1
    assert asked == ["up compose.yaml", "load 0.5 0", "load 2 1", "down"]
    assert "knows of 1 instances after 5 s, not 2" in capsys.readouterr().err
    (comparison.folder / "log.died").unlink()
    monkeypatch.delenv("SCRIPTED_LOSES")
    assert comparison.run()[1][:3] == ["up compose.yaml", "load 2 1", "down"]


@pytest.mark.timeout(60)
def test_an_interrupted_run_is_ended_told_of_and_made_again(
    comparison: Comparison, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits_for, interrupted = Processes.wait, iter([False, True])  # the second load: after the first requests

    def wait(processes: Processes, name: str, limit_s: float) -> int:
        status = waits_for(processes, name, limit_s)
        if name == "loadtest" and next(interrupted, False):
            raise SystemExit(143)  # what the handler of SIGTERM does
        return status

    monkeypatch.setattr(Processes, "wait", wait)
    with pytest.raises(SystemExit):
        comparison.run()
    assert (comparison.folder / "log").read_text().endswith("load 0.5 0\ndown\n")
    assert "ended: interrupted; the same command goes on" in comparison.page()
    status, asked = comparison.run()
    assert status == 0
    assert asked[:2] == ["up compose.yaml", "load 0.5 0"]


@pytest.mark.timeout(60)
def test_killed_while_it_writes_down_its_beginning_it_begins_anew(
    comparison: Comparison, monkeypatch: pytest.MonkeyPatch
) -> None:
    writes = Path.write_text

    def half(file: Path, text: str) -> int:
        if file.name.startswith("begun"):
            writes(file, text[: len(text) // 2])
            raise SystemExit(137)
        return writes(file, text)

    with monkeypatch.context() as killed:
        killed.setattr(Path, "write_text", half)
        with pytest.raises(SystemExit):
            comparison.run()
    assert comparison.run("--time-limit", "1") == (0, [])


@pytest.mark.timeout(60)
def test_without_time_for_a_point_none_is_begun(comparison: Comparison, capsys: pytest.CaptureFixture[str]) -> None:
    assert comparison.run("--time-limit", "1") == (0, [])
    assert "leaves no room for the next point; the same command goes on" in capsys.readouterr().err


@pytest.mark.timeout(60)
def test_repeats_alternate(comparison: Comparison) -> None:
    _, asked = comparison.run("--repeats", "2")
    assert [line for line in asked if line.startswith("up")] == [
        "up compose.yaml",
        BASELINE,
        BASELINE,
        "up compose.yaml",
    ]
    assert asked[1:3] == ["load 0.5 0", "load 2 1"]
    assert asked[-3:-1] == ["load 0.5 2", "load 2 3"]


@pytest.mark.timeout(60)
def test_a_control_may_be_added(comparison: Comparison) -> None:
    comparison.run()
    _, asked = comparison.run("--versus", "same")
    assert asked == ["up compose.yaml", "load 0.5 0", "load 2 1", "down"]
    assert "## Ratios" in comparison.page()
    assert "## Control" in comparison.page()


@pytest.mark.timeout(60)
def test_upstreams_connector_is_measured_behind_its_router(
    comparison: Comparison, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    script = comparison.folder / "python"
    interpreter = comparison.folder / "venv/vllm/bin/python"
    interpreter.parent.mkdir(parents=True)
    interpreter.symlink_to(script)
    monkeypatch.setenv("STACK_VENV_DIR", str(comparison.folder / "venv"))
    before = {process.pid for process in psutil.Process().children(recursive=True)}
    status, asked = comparison.run("--versus", "upstream", "--vllm-router", str(script))
    assert status == 0
    assert asked[:8] == [
        *("up compose.yaml", "load 0.5 0", "load 2 1", "down"),
        *(BASELINE, "load 0.5 0", "load 2 1", "down"),
    ]
    upstream = [line for line in asked[8:] if not line.startswith("load 1 ")]
    assert upstream[0] == BASELINE
    assert sorted(upstream[1:3]) == [
        "server aggregated MooncakeConnector kv_consumer",
        "server aggregated MooncakeConnector kv_producer",
    ]
    counted = [f"load {rate} tokens counted elsewhere" for rate in ("0.5 0", "2 1")]
    assert upstream[3:] == ["router True True", *counted, "down"]
    assert {process.pid for process in psutil.Process().children(recursive=True)} == before
    assert "## Ratios to vLLM's own connector" in comparison.page()


def test_upstreams_connector_needs_its_router(comparison: Comparison, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        comparison.run("--versus", "upstream", "--vllm-router", "/nowhere/router")
    assert "--vllm-router='/nowhere/router': expected the program" in capsys.readouterr().err


MIXTURE = Measurement(0, DISAGGREGATED, points("9/30+600/2:0.5@1")[0], 0)
PLAIN = Measurement(0, AGGREGATED, points("9/30@1")[0], 0)


def measured(folder: Path, measurement: Measurement) -> MeasuredRuns:
    runs = MeasuredRuns(folder)
    run = runs.clear(measurement)
    (run / "run.json").write_text(json.dumps({"manifest": MANIFEST, "settings": {}, "summary": SUMMARY}))
    (run / "requests.jsonl").touch()
    runs.mark(measurement, 1.0)
    return runs


def test_a_whole_run_has_a_row(tmp_path: Path) -> None:
    (row,) = measured(tmp_path, PLAIN).rows(PLAIN)
    assert (row["side"], row["point"], row["requests"]) == ("aggregated", "9/30@1", "all")
    assert (row["ttft_p50_s"], row["itl_p99_s"], row["tpot_n"]) == (0.5, 0.75, 3)


@pytest.mark.parametrize(
    ("file", "text"),
    [
        (MARK, None),  # interrupted: the load test writes its reports then too
        (MARK, '{"took'),
        ("run.json", None),
        ("run.json", '{"manifest": {'),
        ("run.json", json.dumps({"manifest": MANIFEST, "settings": {}})),
        ("requests.jsonl", None),
    ],
)
def test_a_torn_run_is_none(tmp_path: Path, file: str, text: str | None) -> None:
    runs = measured(tmp_path, PLAIN)
    assert runs.run(PLAIN) is not None
    torn = runs.folder(PLAIN) / file
    if text is None:
        torn.unlink()
    else:
        torn.write_text(text)
    assert runs.run(PLAIN) is None
    assert runs.rows(PLAIN) == []
    assert list(runs.clear(PLAIN).iterdir()) == []


def test_the_kinds_of_a_mixture_have_rows_of_their_own(tmp_path: Path) -> None:
    runs = measured(tmp_path, MIXTURE)
    kinds = {9: (30, 0.1), 600: (2, 5.0)}
    file = RequestsFile(runs.folder(MIXTURE) / "requests.jsonl")
    for index, (tokens, (output, ttft)) in enumerate(kinds.items()):
        record = RequestRecord(
            index=index,
            outcome="completed",
            scheduled=1.0,
            started=1.0,
            ended=9.0,
            first_content=1.0 + ttft,
            wanted_input_tokens=tokens,
            wanted_output_tokens=output,
        )
        file.append([record])
    file.close()
    rows = {row["requests"]: row for row in runs.rows(MIXTURE)}
    assert {kind: row["ttft_p50_s"] for kind, row in rows.items()} == {"all": 0.5, STREAMS: 0.1, PROMPTS: 5.0}
    # One span for all: the parts' rates add up to the whole's.
    assert rows[STREAMS]["offered_per_s"] == rows[PROMPTS]["offered_per_s"] == 1 / 40
