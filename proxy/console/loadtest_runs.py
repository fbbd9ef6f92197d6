"""Which load tests have run, by the names of their folders: the load test's own page serves what is in them."""

import os
from pathlib import Path
from typing import Any

MOST_RUNS = 5
REPORT = "report.html"  # loadtest/runs/run_folder.py writes it when a run has ended


def newest_runs(runs_dir: Path) -> list[dict[str, Any]]:
    """The newest first; `at` in Unix seconds. None where the folder cannot be seen from here, as in a container."""
    try:
        with os.scandir(runs_dir) as entries:
            reports = [(_written_at(entry.path), entry.name) for entry in entries]
    except OSError:
        return []
    newest = sorted(((at, name) for at, name in reports if at is not None), reverse=True)[:MOST_RUNS]
    return [{"name": name, "report": f"{name}/{REPORT}", "at": at} for at, name in newest]


def _written_at(folder: str) -> float | None:
    try:
        return os.stat(os.path.join(folder, REPORT)).st_mtime
    except OSError:
        return None
