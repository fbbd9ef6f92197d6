"""How a comparison that was interrupted is found again: by all that its measurements depend on, the code included."""

import hashlib
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import program, results
from benchmarks.errors import BenchmarkError, OutOfTime
from stack.configuration.settings import REPOSITORY

# What a run depends on; tests and documents may change while a comparison is interrupted.
CODE = (
    *("compose*.yaml", "images/**/requirements*.lock", "loadtest/**/*.txt"),
    *(f"{part}/**/*.py" for part in ("connector", "proxy", "stack", "loadtest")),
)


def fingerprint(conditions: Mapping[str, Any], code: str) -> str:
    """Of all that a measurement depends on, apart from the machine."""
    return hashlib.sha256(json.dumps([conditions, code]).encode()).hexdigest()[:12]


def code_fingerprint(*more: str, folder: Path = REPOSITORY) -> str:
    """Of the files' contents, because a copy on another machine may have no git. `more`: patterns beside CODE."""
    whole = hashlib.sha256()
    for file in sorted({file for pattern in (*CODE, *more) for file in folder.glob(pattern)}):
        whole.update(f"{file.relative_to(folder)}\0".encode() + file.read_bytes() + b"\0")
    return whole.hexdigest()


def begun(file: Path, words: Sequence[str], conditions: Mapping[str, Any]) -> tuple[str, str]:
    """Name of the results, which `words` end, and when the comparison began; a resumed one keeps both, in `file`."""
    if not file.exists():
        name, started = program.name(words), time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
        text = json.dumps({"name": name, "started": started, "conditions": conditions}, indent=1)
        results.replace(file, text + "\n")
    found = json.loads(file.read_text())
    return found["name"], found["started"]


def to_its_end(measure: Callable[[], None], write: Callable[[str], None]) -> int:
    """The program's exit status; out of time is no failure. However it ends, `write` is told how.

    Raises: BenchmarkError.
    """
    ended, status = "interrupted; the same command goes on", 1
    try:
        measure()
        ended, status = "complete", 0
    except OutOfTime as error:
        ended, status = f"{error}; the same command goes on", 0
        print(f"benchmark: {ended}", file=sys.stderr)
    except BenchmarkError as error:
        ended = str(error).partition("; the end of ")[0]  # what follows is a log
        raise
    finally:
        write(ended)
    return status
