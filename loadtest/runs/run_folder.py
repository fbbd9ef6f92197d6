"""The folder of one run: requests.jsonl as it grows, run.json with what it was and its figures, and the reports.

run.json is written when the run begins, then without figures, and again when it ends; `analyse` makes the figures from
the requests and may be repeated.
"""

import os
from datetime import datetime
from itertools import count
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from loadtest import stages
from loadtest.figures import saturation
from loadtest.figures.columns import Columns
from loadtest.figures.slo import Slo
from loadtest.figures.summary import Summary, measured, measured_span, summarize_columns
from loadtest.runs import requests_file
from loadtest.runs.manifest import Manifest
from loadtest.runs.requests_file import SavedRequests
from stack.configuration.environment import ConfigError

RUN = "run.json"
REPORT_PAGE, REPORT_TEXT = "report.html", "report.md"
FILES = (REPORT_PAGE, REPORT_TEXT, RUN, requests_file.NAME)


class NoRun(Exception):
    """A folder holds no run that can be read; the text is one line."""


class StageSummary(BaseModel):
    """load: as LOADTEST_STAGES writes it, e.g. 4 or 1-4."""

    load: str
    summary: Summary


class Run(BaseModel):
    """run.json. settings: by the names of .env. stages: empty for a load that was the same throughout."""

    manifest: Manifest
    settings: dict[str, Any]
    summary: Summary | None = None
    stages: list[StageSummary] = []

    @property
    def slo(self) -> Slo:
        return Slo(*(self.settings.get(f"LOADTEST_SLO_{name}_S") for name in ("TTFT", "TPOT", "ITL")))

    def write(self, folder: Path) -> None:
        """At once: a reader finds the old file or the new one."""
        unfinished = folder / f".{RUN}"
        unfinished.write_text(self.model_dump_json(indent=2) + "\n", encoding="utf-8")
        unfinished.replace(folder / RUN)

    @classmethod
    def read(cls, folder: Path) -> "Run":
        """Raises: NoRun."""
        try:
            return cls.model_validate_json((folder / RUN).read_bytes())
        except OSError as error:
            raise NoRun(f"{folder / RUN}: {os.strerror(error.errno or 0)}; expected the folder of a run") from error
        except ValidationError as error:
            raise NoRun(f"{folder / RUN}: expected what a run writes: {error.errors()[0]['msg']}") from error


def new_folder(wanted: Path | None, runs_dir: Path) -> Path:
    """Make it: `wanted`, or one named after the time; with -2, -3, ... at its end where that holds a run already.

    Raises: ConfigError: it cannot be made or written.
    """
    first = wanted or runs_dir / f"{datetime.now():%Y-%m-%d_%H-%M-%S}"
    names = (first.with_name(f"{first.name}-{number}") if number > 1 else first for number in count(1))
    folder = next(name for name in names if not any((name / file).exists() for file in FILES))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / requests_file.NAME).touch()
    except OSError as error:
        variable, value = ("LOADTEST_RUN_DIR", wanted) if wanted else ("STACK_DIR", runs_dir.parent)
        raise ConfigError(
            [f"{variable}={str(value)!r}: cannot write there: {os.strerror(error.errno or 0)}"]
        ) from error
    return folder


def analyse(folder: Path, run: Run) -> tuple[Run, Columns, str | None]:
    """Returns: the run with its figures, its requests, and what was wrong with requests.jsonl."""
    records = SavedRequests(folder / requests_file.NAME)
    columns = Columns.of(records, run.slo)
    since_s, until_s = measured_span(columns, run.manifest.warmup_s, _load_end(columns, run))
    parts = _stages(run.settings.get("LOADTEST_STAGES"), since_s, until_s)
    several = parts if len(parts) > 1 else []
    found = [StageSummary(load=load, summary=_figures(columns, *span, run, load)) for load, span in several]
    summary = _figures(columns, since_s, until_s, run, parts[0][0] if parts else "")
    if found:  # the load is not even over the whole run
        over = [f"stage {stage.load}, {stage.summary.saturation}" for stage in found if stage.summary.saturation]
        summary = summary.model_copy(update={"saturation": "; ".join(over) or None})
    return run.model_copy(update={"summary": summary, "stages": found}), columns, records.damage()


def _load_end(columns: Columns, run: Run) -> float | None:
    """A schedule of n requests ends one mean distance after the last, which may be before the test's own end."""
    load_s, settings = run.manifest.load_s, run.settings
    if load_s is None:
        return None
    is_finite = settings.get("LOADTEST_REQUESTS") or settings.get("LOADTEST_WORKLOAD") in ("trace", "prompts")
    if is_finite and len(columns) > 1:
        scheduled = columns["scheduled"]
        last = float(scheduled.max())
        load_s = min(load_s, last + (last - float(scheduled.min())) / (len(columns) - 1))
    return load_s


def _figures(columns: Columns, since_s: float, until_s: float, run: Run, load: str) -> Summary:
    summary = summarize_columns(columns, warmup_s=since_s, until_s=until_s)
    without_gaps = columns.without_gaps()
    is_ramp = "-" in load  # what grows then may grow with the load
    return summary.model_copy(
        update={
            "saturation": None if is_ramp else saturation.saturation(without_gaps, since_s, until_s),
            "generator_limit": saturation.generator_limit(
                measured(without_gaps, since_s, until_s), run.manifest.cpu_share
            ),
        }
    )


def _stages(text: str | None, since_s: float, until_s: float) -> list[tuple[str, tuple[float, float]]]:
    """The stages that a run reached, each from the end of the warm-up at the earliest."""
    found, start = [], 0.0
    for stage in stages.parse(text).stages if text else ():
        span = max(start, since_s), min(start + stage.seconds, until_s)
        start += stage.seconds
        if span[0] < span[1]:
            load = f"{stage.first:g}" if stage.first == stage.last else f"{stage.first:g}-{stage.last:g}"
            found.append((load, span))
    return found
