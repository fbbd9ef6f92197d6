"""The folder of a run: where it lies, run.json, and figures by stages."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from loadtest.figures.record import RequestRecord
from loadtest.figures.slo import Slo
from loadtest.runs.manifest import Manifest
from loadtest.runs.requests_file import NAME, RequestsFile
from loadtest.runs.run_folder import NoRun, Run, analyse, new_folder
from stack.configuration.environment import ConfigError
from tests.unit.loadtest.made_records import answered


def manifest(**more: Any) -> Manifest:
    given: dict[str, Any] = {"target": "http://proxy:8000", "seed": 1, "warmup_s": 0.0, "command": "python -m loadtest"}
    told = {"versions": {}, "hardware": {}, "started_at": "2026-11-23T10:00:00+00:00", "load_s": 60.0}
    return Manifest(**given | told | more)


def run_of(folder: Path, records: list[RequestRecord], *, told: Manifest | None = None, **settings: Any) -> Run:
    file = RequestsFile(folder / NAME)
    file.append(records)
    file.close()
    run = Run(manifest=told or manifest(), settings=settings)
    run.write(folder)
    return run


def test_a_run_never_writes_over_another(tmp_path: Path) -> None:
    wanted = tmp_path / "run"
    folders = [new_folder(wanted, tmp_path) for _ in range(3)]
    assert [folder.name for folder in folders] == ["run", "run-2", "run-3"]
    assert all((folder / NAME).exists() for folder in folders)


def test_a_folder_with_other_files_is_taken_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    assert new_folder(tmp_path, tmp_path) == tmp_path
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_without_a_name_it_is_the_time(tmp_path: Path) -> None:
    folders = [new_folder(None, tmp_path / "runs") for _ in range(2)]
    assert len(set(folders)) == 2
    assert all(folder.parent == tmp_path / "runs" for folder in folders)


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError) as problem:
        new_folder(tmp_path / "file" / "run", tmp_path)
    line = f"LOADTEST_RUN_DIR={str(tmp_path / 'file' / 'run')!r}: cannot write there: {os.strerror(20)}"
    assert str(problem.value) == line


def test_run_json_has_what_others_read(tmp_path: Path) -> None:
    run = run_of(tmp_path, [answered(i * 1.0) for i in range(50)], LOADTEST_SLO_TTFT_S=1.0)
    analyse(tmp_path, run)[0].write(tmp_path)
    document = json.loads((tmp_path / "run.json").read_text())
    assert set(document) == {"manifest", "settings", "summary", "stages"}
    assert document["settings"] == {"LOADTEST_SLO_TTFT_S": 1.0}
    summary = document["summary"]
    figures = {"offered_per_s", "requests_per_s", "output_tokens_per_s", "goodput_per_s", "goodput_share"}
    latencies = {"ttft_s", "itl_s", "tpot_s", "end_to_end_s", "start_delay_s", "worst_gaps_s"}
    others = {"outcomes", "errors", "saturation", "generator_limit", "paths", "transports", "phases_s"}
    others |= {"first_tokens", "second_token_s"}
    assert figures | latencies | others <= set(summary)
    for name in latencies:
        assert set(summary[name]) == {"count", "mean", "p50", "p90", "p95", "p99", "max"}
    assert set(summary["outcomes"]) == {"completed", "failed", "cut_off", "cancelled"}
    assert Run.read(tmp_path).summary is not None


def test_the_slo_is_that_of_the_settings(tmp_path: Path) -> None:
    run = run_of(tmp_path, [], LOADTEST_SLO_TTFT_S=0.2, LOADTEST_SLO_ITL_S=0.1)
    assert run.slo == Slo(ttft_s=0.2, itl_s=0.1)


@pytest.mark.parametrize("content", [None, "", "{}", '{"manifest": 7}', "not json"])
def test_no_run_is_one_line(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "run.json").write_text(content)
    with pytest.raises(NoRun) as problem:
        Run.read(tmp_path)
    assert str(tmp_path / "run.json") in str(problem.value)
    assert "\n" not in str(problem.value)


def test_each_stage_has_figures_of_its_own(tmp_path: Path) -> None:
    records = [answered(i / 2, ttft=0.2) for i in range(80)] + [answered(40 + i / 4, ttft=1 + i / 4) for i in range(80)]
    run = run_of(tmp_path, records, told=manifest(warmup_s=10.0), LOADTEST_STAGES="40:2,20:4,99:8")
    analysed = analyse(tmp_path, run)[0]
    assert [stage.load for stage in analysed.stages] == ["2", "4"]  # the run was stopped before the third
    first, second = (stage.summary for stage in analysed.stages)
    assert (first.from_s, first.until_s, second.from_s, second.until_s) == (10.0, 40.0, 40.0, 60.0)
    assert (first.offered_per_s, second.offered_per_s) == pytest.approx((2.0, 4.0))
    assert first.saturation is None
    assert second.saturation is not None
    assert analysed.summary is not None
    assert analysed.summary.saturation == f"stage 4, {second.saturation}"


@pytest.mark.parametrize("stages", ["60:1-4", "30:1-4,30:4-8"])
def test_what_grows_with_the_load_is_no_saturation(tmp_path: Path, stages: str) -> None:
    run = run_of(tmp_path, [answered(i / 4, ttft=0.1 + i / 100) for i in range(240)], LOADTEST_STAGES=stages)
    analysed = analyse(tmp_path, run)[0]
    assert analysed.summary is not None
    assert analysed.summary.saturation is None


def test_one_stage_is_the_whole_run(tmp_path: Path) -> None:
    run = run_of(tmp_path, [answered(1.0)], LOADTEST_STAGES="60:2")
    assert analyse(tmp_path, run)[0].stages == []


@pytest.mark.parametrize(
    ("settings", "until_s"),
    [
        ({}, 60.0),  # it was stopped
        ({"LOADTEST_REQUESTS": 21}, 21.0),  # 21 requests, a second from one to the next
        ({"LOADTEST_WORKLOAD": "trace"}, 21.0),
    ],
)
def test_the_load_ends_with_its_schedule(tmp_path: Path, settings: dict[str, Any], until_s: float) -> None:
    run = run_of(tmp_path, [answered(float(i)) for i in range(21)], **settings)
    summary = analyse(tmp_path, run)[0].summary
    assert summary is not None
    assert summary.until_s == pytest.approx(until_s)


def test_a_killed_run_can_be_analysed(tmp_path: Path) -> None:
    run_of(tmp_path, [answered(float(i)) for i in range(3)], told=manifest(load_s=None))
    with (tmp_path / NAME).open("ab") as file:
        file.write(b'{"index": 3, "outc')
    analysed, columns, damage = analyse(tmp_path, Run.read(tmp_path))
    assert analysed.summary is not None
    assert (analysed.summary.requests, len(columns)) == (3, 3)
    assert damage is not None
