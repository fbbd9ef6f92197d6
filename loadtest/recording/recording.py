"""Keeps what a test measured: from Locust's events to the run's folder.

A worker's records travel in Locust's own reports: every three seconds, before a worker says that its part is over
(team.py), and when the master, about to stop the test, asks for them: at a signal Locust waits half a second for the
last report, however busy the machine is. The master, or a process without workers, writes each record to the run's
folder as it comes, and the figures and reports when the test ends, however it ends. A killed worker loses what it
measured since its last report; a killed master loses nothing that has reached it.
"""

import logging
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gevent
from gevent.event import Event
from locust.env import Environment
from locust.rpc.protocol import Message
from locust.runners import STATE_MISSING, MasterRunner, WorkerRunner

from loadtest.figures.record import RequestRecord
from loadtest.recording.collector import Collector, Outbox
from loadtest.recording.cpu_share import CpuShare
from loadtest.runs import run_folder
from loadtest.runs.manifest import Manifest, ask_target, manifest, now, plain_settings
from loadtest.runs.requests_file import NAME, RequestsFile
from loadtest.runs.run_folder import Run
from loadtest.settings import LoadTestSettings

logger = logging.getLogger(__name__)

_SEND, _SENT = "loadtest_send_records", "loadtest_records_sent"  # master to worker, and its answer
_PATIENCE_S = 5.0  # for the answer; a worker that is lost gives none


class WorkerRecording:
    """On a worker: puts the records into its reports."""

    def __init__(self, environment: Environment) -> None:
        assert isinstance(environment.runner, WorkerRunner)
        self._environment = environment
        self._runner = environment.runner
        self._outbox = Outbox()
        self.collector: Collector = self._outbox
        self._cpu = CpuShare()
        environment.events.report_to_master.add_listener(self._report)
        environment.events.test_stopping.add_listener(self._load_ends)
        self._runner.register_message(_SEND, self._send)

    def begin(self, settings: LoadTestSettings, zero: float, seconds: float) -> None:
        self._cpu.begin(zero + settings.loadtest_warmup_s - time.time())

    def _load_ends(self, **_: Any) -> None:
        self._cpu.end()

    def _report(self, data: dict[str, Any], **_: Any) -> None:
        data["records"], data["cpu_share"] = self._outbox.empty(), self._cpu.busiest

    def _send(self, **_: Any) -> None:
        data: dict[str, Any] = {}
        self._environment.events.report_to_master.fire(client_id=self._runner.client_id, data=data)
        self._runner.send_message("stats", data)
        self._runner.send_message(_SENT)


class RunRecording:
    """On the master, or without workers: keeps the records of all processes.

    folder, run: of the run that goes on, or of the last one; without figures until it has ended. zero: of its schedule,
    Unix seconds.
    """

    def __init__(self, environment: Environment) -> None:
        self.collector = Collector()
        self.collector.subscribe(self._append)
        self.folder: Path | None = None
        self.run: Run | None = None
        self.zero = 0.0
        self._seconds = math.inf
        self._environment = environment
        self._cpu = CpuShare()
        self._cpu_of_workers: dict[str, float] = {}
        self._file: RequestsFile | None = None
        self._has_news = False
        self._asking: gevent.Greenlet | None = None
        self._awaited: set[str] = set()
        self._all_sent = Event()
        if isinstance(environment.runner, MasterRunner):
            environment.runner.register_message(_SENT, self._note_sent)
        events = environment.events
        for hook, listener in (
            (events.worker_report, self._receive),
            (events.test_stopping, self._load_ends),
            (events.test_stop, self._finish),
            (events.quit, self._finish),  # a signal stops a test before its workers have sent their last records
        ):
            hook.add_listener(listener)

    @property
    def cpu_share(self) -> float:
        """Of one core, of the busiest process that makes requests, in its busiest seconds."""
        return max(self._cpu_of_workers.values(), default=self._cpu.busiest)

    def begin(self, settings: LoadTestSettings, zero: float, seconds: float) -> None:
        """Returns at once: the load begins in half a second. Raises: ConfigError: the folder cannot be written.

        Args: zero: of the schedule, Unix seconds; seconds: after it the load is over, may be inf.
        """
        self._finish()
        folder = run_folder.new_folder(settings.loadtest_run_dir, settings.runs_dir)
        if self._file is not None:
            self._file.close()
        self._file = RequestsFile(folder / NAME)
        self._cpu.begin(zero + settings.loadtest_warmup_s - time.time())
        self._cpu_of_workers.clear()
        self.collector.begin()
        run = Run(manifest=manifest(settings), settings=plain_settings(settings))
        run.write(folder)
        self.folder, self.run, self.zero, self._seconds = folder, run, zero, seconds
        self._has_news = True
        self._asking = gevent.spawn(self._ask, settings, run.manifest)
        logger.info("this run's files: %s", folder)

    def _ask(self, settings: LoadTestSettings, told: Manifest) -> None:
        ask_target(settings, told)
        if self.run is not None and self.run.manifest is told and self.folder is not None:
            self.run.write(self.folder)

    def _append(self, records: Sequence[RequestRecord]) -> None:
        if self._file is not None:
            self._file.append(records)
            self._has_news = True

    def _receive(self, client_id: str, data: dict[str, Any], **_: Any) -> None:
        if (share := data.pop("cpu_share", None)) is not None:
            self._cpu_of_workers[client_id] = share
        self.collector.receive(data.pop("records", ()))

    def _load_ends(self, **_: Any) -> None:
        self._cpu.end()
        if self._has_news and self.run is not None and self.run.manifest.load_s is None:
            # A test that came to its end has waited for its last answers, and offered nothing meanwhile.
            self.run.manifest.load_s = round(max(0.0, min(time.time() - self.zero, self._seconds)), 3)
            self._fetch()

    def _fetch(self) -> None:
        """Have every worker's records so far."""
        runner = self._environment.runner
        if not isinstance(runner, MasterRunner):
            return
        self._awaited = {client.id for client in runner.clients.all if client.state != STATE_MISSING}
        if self._awaited:
            self._all_sent.clear()
            for client in tuple(self._awaited):
                runner.send_message(_SEND, client_id=client)
            self._all_sent.wait(_PATIENCE_S)

    def _note_sent(self, msg: Message, **_: Any) -> None:
        self._awaited.discard(msg.node_id)
        if not self._awaited:
            self._all_sent.set()

    def _finish(self, **_: Any) -> None:
        """Again, when records came after the end."""
        if not self._has_news or self.folder is None or self.run is None:
            return
        self._load_ends()
        if self._asking is not None:
            self._asking.join()
        self._has_news = False
        told = self.run.manifest
        told.ended_at = now()
        told.workers = max(1, len(self._cpu_of_workers))
        told.cpu_share = self.cpu_share
        # What team.py counts as failed without a request.
        errors = self._environment.stats.errors.values()
        told.problems = [f"{error.name}: {error.error}" for error in errors if error.method == "test"]
        # Only here: plotly takes seconds and 50 MB, which no worker and no beginning of a test should pay for.
        from loadtest import report

        self.run = report.write(self.folder, self.run)
        logger.info("report: %s", self.folder / run_folder.REPORT_PAGE)


def recording(environment: Environment) -> WorkerRecording | RunRecording:
    """For this process, once; its `collector` takes the records, `begin` starts a run."""
    return WorkerRecording(environment) if isinstance(environment.runner, WorkerRunner) else RunRecording(environment)
