"""What every benchmark's main program does around its measurements: results however it ends, facts about the run."""

import shlex
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from benchmarks.errors import BenchmarkError, OutOfTime
from benchmarks.processes import Processes
from benchmarks.results import Results
from stack.configuration.settings import REPOSITORY


def measure_and_write(results: Results, logs: Path, measure: Callable[[Path, Processes], None]) -> int:
    """Run `measure` with a folder for scratch; what it starts ends with it. However it ends, the results say how.

    Returns: the program's exit status; out of time is none of a failure.
    """
    how, status = "early", 1
    try:
        with tempfile.TemporaryDirectory(prefix="benchmark-") as scratch, Processes(logs) as processes:
            measure(Path(scratch), processes)
        how, status = "complete", 0
    except OutOfTime as error:
        how, status = str(error), 0
        print(f"benchmark: {error}: measured no further", file=sys.stderr)
    except BenchmarkError as error:
        how = str(error).splitlines()[0]
        print(f"benchmark: {error}", file=sys.stderr)
    finally:
        results.end(how)
    if status == 0:
        print(f"results: {results.page_file}")
    return status


def about(module: str, title: str) -> dict[str, Any]:
    """The part of a document's head that every benchmark has."""
    words = [shown(word) for word in sys.argv[1:]]
    return {
        "title": title,
        "command": shlex.join(["python", "-m", module, *words]),
        "started": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
    }


def shown(word: str) -> str:
    """A word of the command line; a path is relative to this repository, of one outside it only the name stays."""
    path = Path(word)
    if not path.is_absolute():
        return word
    return str(path.relative_to(REPOSITORY)) if path.is_relative_to(REPOSITORY) else path.name


def name(words: Sequence[str]) -> str:
    """Of the files of results."""
    return "-".join((time.strftime("%Y-%m-%dT%H%M", time.gmtime()), *words))


def end(number: int, frame: FrameType | None) -> None:
    """A signal handler: a termination ends what was started and writes the results, as an interrupt does."""
    raise SystemExit(128 + number)
