"""The console's links to the last load tests."""

import os
from pathlib import Path

from proxy.console.loadtest_runs import MOST_RUNS, newest_runs


def test_the_newest_reports_come_first(tmp_path: Path) -> None:
    for number in range(MOST_RUNS + 2):
        (tmp_path / f"run-{number}").mkdir()
        (tmp_path / f"run-{number}" / "report.html").touch()
        os.utime(tmp_path / f"run-{number}" / "report.html", (1000 + number, 1000 + number))
    (tmp_path / "begun").mkdir()
    (tmp_path / "file").touch()
    names = [run["name"] for run in newest_runs(tmp_path)]
    assert names == [f"run-{number}" for number in range(MOST_RUNS + 1, 1, -1)]
    assert newest_runs(tmp_path)[0] == {"name": "run-6", "report": "run-6/report.html", "at": 1006.0}


def test_a_folder_that_is_not_here_has_none(tmp_path: Path) -> None:
    assert newest_runs(tmp_path / "nothing") == []
