"""How the tests start the load test as a process of its own, and what is left of it when it has ended."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loadtest.figures.record import RequestRecord
from loadtest.runs.requests_file import NAME, SavedRequests

COMMAND = (sys.executable, "-m", "loadtest")
_REPOSITORY = Path(__file__).parents[3]


def environment(**variables: str) -> dict[str, str]:
    """This process's environment with the given settings and no others of the load test."""
    others = {name: value for name, value in os.environ.items() if not name.startswith(("LOADTEST_", "LOCUST_"))}
    return {**others, "PYTHONPATH": str(_REPOSITORY), **variables}


@dataclass(frozen=True)
class Finished:
    exit_code: int
    log: str
    rows: dict[str, dict[str, Any]]  # of the statistics table, by name
    records: list[RequestRecord]  # of all requests, by index

    def total(self, row: str) -> float:
        """Of all the row's values, in milliseconds."""
        return float(self.rows[row]["total_response_time"])

    def least(self, row: str) -> float:
        return float(self.rows[row]["min_response_time"])


@dataclass(frozen=True)
class Headless:
    """A running `python -m loadtest --headless`."""

    process: "subprocess.Popen[str]"
    folder: Path

    def children(self) -> list[int]:
        """Process ids of its workers, in the order in which they were started."""
        listed = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        return sorted(int(child) for child in listed.split())

    def wait(self) -> Finished:
        out, log = self.process.communicate(timeout=60)
        records = list(SavedRequests(self.folder / NAME)) if (self.folder / NAME).exists() else []
        tables = _json_documents(out)  # one; with workers also an empty one of each
        rows = {row["name"]: row for table in tables for row in table}
        return Finished(self.process.returncode, log, rows, sorted(records, key=lambda record: record.index))


def start_headless(target: str, folder: Path, *options: str, **variables: str) -> Headless:
    process = subprocess.Popen(
        [*COMMAND, "--headless", "--json", *options],
        env=environment(LOADTEST_TARGET=target, LOADTEST_RUN_DIR=str(folder), **variables),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    return Headless(process, folder)


def headless(target: str, *options: str, **variables: str) -> Finished:
    with tempfile.TemporaryDirectory() as folder:
        return start_headless(target, Path(folder) / "run", *options, **variables).wait()


def _json_documents(text: str) -> Iterator[Any]:
    while text := text.lstrip():
        document, end = json.JSONDecoder().raw_decode(text)
        yield document
        text = text[end:]
