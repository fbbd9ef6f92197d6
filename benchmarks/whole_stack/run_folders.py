"""Runs on disk: a folder for each, with what the load test wrote and a mark that the run came to its end.

A run that was interrupted writes its reports too, of the requests it had; only the mark tells that all of them are in.
"""

import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol

from loadtest.runs import requests_file
from loadtest.runs.manifest import Manifest
from loadtest.runs.requests_file import SavedRequests
from loadtest.runs.run_folder import NoRun, Run

MARK = "measured.json"


class Measured(Protocol):
    """One headless run of the load test."""

    @property
    def folder(self) -> str:
        """Relative to the plan's."""


class RunFolders:
    """Those of one plan, in `folder`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def folder(self, measurement: Measured) -> Path:
        return self._folder / measurement.folder

    def run(self, measurement: Measured) -> Run | None:
        """None: not measured yet, or torn."""
        folder = self.folder(measurement)
        try:
            mark = json.loads((folder / MARK).read_text())
            run = Run.read(folder)
        except (FileNotFoundError, ValueError, NoRun):
            return None
        whole = isinstance(mark, dict) and (folder / requests_file.NAME).is_file()
        return run if whole and run.summary else None

    def requests(self, measurement: Measured) -> SavedRequests:
        """Of a run that is complete."""
        return SavedRequests(self.folder(measurement) / requests_file.NAME)

    def clear(self, measurement: Measured) -> Path:
        """An empty folder for a run; what a torn one left is removed."""
        folder = self.folder(measurement)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        return folder

    def mark(self, measurement: Measured, took_s: float, **facts: Any) -> None:
        """`facts`: what else is known of the run, as JSON can hold it."""
        mark = self.folder(measurement) / MARK
        new = mark.with_suffix(".new")
        new.write_text(json.dumps({"took_s": round(took_s, 1), **facts}) + "\n")
        new.replace(mark)

    def facts(self, measurement: Measured) -> dict[str, Any]:
        """What the mark of a complete run says."""
        return dict(json.loads((self.folder(measurement) / MARK).read_text()))


def server_versions(manifests: Iterable[Manifest]) -> dict[str, str]:
    """Of the vLLM servers behind all these runs, by what the proxy says of them."""
    found: dict[str, set[str]] = {}
    for manifest in manifests:
        for name, versions in manifest.servers.items():
            found.setdefault(name, set()).update(versions)
    return {name: ", ".join(sorted(versions)) for name, versions in found.items()}
