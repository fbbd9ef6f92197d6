"""Keeps what a test measured: from Locust's events to the run's folder.

A worker's records travel in Locust's own reports, every three seconds; the last ones in a message that a worker sends
before it says that it has stopped. The master, or a process without workers, writes each record to the run's folder as
it comes, and the figures and reports when the test ends, however it ends. A killed worker loses what it measured since
its last report.
"""

import logging
import time
from pathlib import Path
from typing import Any

from locust.env import Environment
from locust.runners import MasterRunner, WorkerRunner

from loadtest import report, run_folder
from loadtest.collector import Collector, Outbox
from loadtest.manifest import manifest, now, plain_settings
from loadtest.requests_file import NAME, RequestsFile
from loadtest.run_folder import Run
from loadtest.settings import LoadTestSettings

logger = logging.getLogger(__name__)

_LAST_RECORDS = "last_records"  # a message of a worker to its master


class CpuShare:
    """Mean CPU use of this process since `begin`, as a share of one core; Locust looks every five seconds."""

    def __init__(self, environment: Environment) -> None:
        environment.events.usage_monitor.add_listener(self._sample)
        self.begin()

    def begin(self) -> None:
        self._sum, self._samples = 0.0, 0

    @property
    def mean(self) -> float | None:
        return round(self._sum / self._samples, 3) if self._samples else None

    def _sample(self, cpu_usage: float, **_: Any) -> None:
        self._sum += cpu_usage / 100
        self._samples += 1


class WorkerRecording:
    """On a worker: takes the records to the master."""

    def __init__(self, environment: Environment) -> None:
        self._runner = environment.runner
        self._outbox = Outbox()
        self.collector: Collector = self._outbox
        self._cpu = CpuShare(environment)
        environment.events.report_to_master.add_listener(self._report)
        environment.events.test_stop.add_listener(self._send_last)

    def begin(self, settings: LoadTestSettings, zero: float) -> None:
        self._cpu.begin()

    def _report(self, data: dict[str, Any], **_: Any) -> None:
        data["records"], data["cpu_share"] = self._outbox.empty(), self._cpu.mean

    def _send_last(self, **_: Any) -> None:
        data: dict[str, Any] = {}
        self._report(data)
        assert self._runner is not None
        self._runner.send_message(_LAST_RECORDS, data)


class RunRecording:
    """On the master, or without workers: keeps the records of all processes."""

    def __init__(self, environment: Environment) -> None:
        self.collector = Collector()
        self.collector.subscribe(self._append)
        # Of the run that goes on, or of the last one, which has its figures.
        self.folder: Path | None = None
        self.run: Run | None = None
        self.zero = 0.0
        self._cpu = CpuShare(environment)
        self._cpu_of_workers: dict[str, float] = {}
        self._file: RequestsFile | None = None
        self._unreported = False
        if isinstance(environment.runner, MasterRunner):
            environment.runner.register_message(_LAST_RECORDS, self._receive_last)
        events = environment.events
        events.worker_report.add_listener(self._receive)
        events.test_stopping.add_listener(self._load_ends)
        events.test_stop.add_listener(self._finish)
        events.quit.add_listener(self._finish)  # a signal stops a test before its workers have sent their last records

    @property
    def cpu_share(self) -> float | None:
        """Of one core, of the busiest process that makes requests; None: not known yet."""
        return max(self._cpu_of_workers.values(), default=self._cpu.mean)

    def begin(self, settings: LoadTestSettings, zero: float) -> None:
        """Args: zero: of the schedule, Unix seconds. Raises: ConfigError: the folder cannot be written."""
        self._finish()
        folder = run_folder.new_folder(settings.loadtest_run_dir, settings.runs_dir)
        run = Run(manifest=manifest(settings), settings=plain_settings(settings))
        run.write(folder)
        self.folder, self.run, self.zero = folder, run, zero
        self._file = RequestsFile(self.folder / NAME)
        self._cpu.begin()
        self._cpu_of_workers.clear()
        self._unreported = True
        self.collector.begin()
        logger.info("this run's files: %s", self.folder)

    def _append(self, records: Any) -> None:
        if self._file is not None:
            self._file.append(records)
            self._unreported = True

    def _receive(self, client_id: str, data: dict[str, Any], **_: Any) -> None:
        if (share := data.pop("cpu_share", None)) is not None:
            self._cpu_of_workers[client_id] = share
        self.collector.receive(data.pop("records", ()))

    def _receive_last(self, msg: Any, **_: Any) -> None:
        self._receive(msg.node_id, msg.data)

    def _load_ends(self, **_: Any) -> None:
        if self._unreported and self.run is not None and self.run.manifest.load_s is None:
            self.run.manifest.load_s = round(max(0.0, time.time() - self.zero), 3)

    def _finish(self, **_: Any) -> None:
        """Also called again: for records that came since."""
        if not self._unreported or self.folder is None or self.run is None:
            return
        self._load_ends()
        self._unreported = False
        told = self.run.manifest
        told.ended_at = now()
        told.workers = max(1, len(self._cpu_of_workers))
        told.cpu_share = self.cpu_share
        self.run = report.write(self.folder, self.run)
        logger.info("report: %s", self.folder / run_folder.REPORT_PAGE)


def recording(environment: Environment) -> WorkerRecording | RunRecording:
    """For this process, once; its `collector` takes the records, `begin` starts a run."""
    return WorkerRecording(environment) if isinstance(environment.runner, WorkerRunner) else RunRecording(environment)
