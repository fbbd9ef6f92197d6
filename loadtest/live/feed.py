"""What the tab's page is told: one JSON object about the run that goes on, or about the last one.

Every request is read once, when it has ended; an answer costs the same however long the run is. When the run is over,
its totals are those of the report.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loadtest import stages
from loadtest.figures.record import RequestRecord
from loadtest.figures.summary import Summary
from loadtest.live import judgement
from loadtest.live.timeline import Timeline
from loadtest.runs.run_folder import FILES, Run

if TYPE_CHECKING:  # importing locust replaces sockets and threads of the whole process by gevent's
    from loadtest.recording.recording import RunRecording

_PORTION = 50  # requests, about 2 ms; singly they cost ten times as much, and without workers this thread measures, too
_SLACK_S = 1.0  # until the records of requests that have ended are here
_JUDGED_EVERY_S = 10.0


class Feed:
    """Args: report_interval_s: how long a record may take from its worker to here; clock: Unix seconds."""

    def __init__(
        self, recording: RunRecording, report_interval_s: float, clock: Callable[[], float] = time.time
    ) -> None:
        self._recording = recording
        self._delay_s = report_interval_s + _SLACK_S
        self._clock = clock
        self._reading: _Reading | None = None
        recording.collector.subscribe(self._receive)

    def answer(self) -> dict[str, Any]:
        """{} before the first run."""
        reading, run, folder = self._current(), self._recording.run, self._recording.folder
        if reading is None or run is None or folder is None:
            return {}
        reading.catch_up()
        timeline = reading.timeline
        until_s = ends_known_s = starts_known_s = timeline.latest_s
        if run.summary is None:
            until_s = max(until_s, self._clock() - self._recording.zero)
            ends_known_s = until_s - self._delay_s
            starts_known_s = ends_known_s - timeline.longest_s
        return {
            "run": folder.name,
            "files": [name for name in FILES if (folder / name).exists()],
            "warnings": self._warnings(reading, run, starts_known_s),
            "until_s": until_s,
            "width_s": timeline.width_s,
            "warmup_s": run.manifest.warmup_s,
            "slo": {"text": str(run.slo), **asdict(run.slo)},
            "totals": timeline.totals(until_s) if run.summary is None else _totals(run.summary),
            "windows": timeline.windows(until_s, ends_known_s, starts_known_s),
        }

    def _receive(self, records: Sequence[RequestRecord]) -> None:
        if (reading := self._current()) is not None:
            reading.take(records)

    def _current(self) -> _Reading | None:
        """Of the recording's present run: a folder belongs to one run."""
        run, folder = self._recording.run, self._recording.folder
        if run is not None and folder is not None and (self._reading is None or self._reading.folder != folder):
            self._reading = _Reading(run, folder)
        return self._reading

    def _warnings(self, reading: _Reading, run: Run, starts_known_s: float) -> list[str]:
        if run.summary is not None:
            return [*judgement.of_report(run.summary), *run.manifest.problems]
        if self._clock() >= reading.judged_at + _JUDGED_EVERY_S:
            reading.judged_at = self._clock()
            newest = list(islice(reversed(self._recording.collector.records), judgement.NEWEST))[::-1]
            reading.warnings = judgement.of_newest(
                newest,
                since_s=run.manifest.warmup_s,
                steady_since_s=_steady_since(run.settings.get("LOADTEST_STAGES"), starts_known_s),
                starts_known_s=starts_known_s,
                cpu_share=self._recording.cpu_share,
            )
        return reading.warnings


class _Reading:
    """What was read of one run so far."""

    def __init__(self, run: Run, folder: Path) -> None:
        self.folder = folder
        self.timeline = Timeline(run.slo, run.manifest.warmup_s)
        self.warnings: list[str] = []
        self.judged_at = -math.inf
        self._waiting: list[RequestRecord] = []

    def take(self, records: Sequence[RequestRecord]) -> None:
        self._waiting.extend(records)
        while len(self._waiting) >= _PORTION:
            self._read(_PORTION)

    def catch_up(self) -> None:
        self._read(len(self._waiting))

    def _read(self, count: int) -> None:
        portion, self._waiting = self._waiting[:count], self._waiting[count:]
        self.timeline.add(portion)


def _steady_since(text: str | None, at_s: float) -> float:
    """Since when the load has been what it is at this moment: the start of its stage; never, if that is a ramp."""
    start = 0.0
    for stage in stages.parse(text).stages if text else ():
        if start + stage.seconds > at_s:
            return start if stage.first == stage.last else math.inf
        start += stage.seconds
    return start


def _totals(summary: Summary) -> dict[str, float | None]:
    """Of the report, by the names of `Timeline.totals`."""
    rates = {"completed_per_s": summary.requests_per_s, "good_per_s": summary.goodput_per_s}
    latencies = {"ttft": summary.ttft_s, "itl": summary.itl_s, "tpot": summary.tpot_s}
    return {
        "ended": summary.requests,
        **summary.outcomes,
        **rates,
        "good_share": summary.goodput_share,
        "output_tokens_per_s": summary.output_tokens_per_s,
        **{f"{name}_p50_s": found.p50 for name, found in latencies.items()},
        **{f"{name}_p99_s": found.p99 for name, found in latencies.items()},
    }
