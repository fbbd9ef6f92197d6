"""The Locust file: what makes the requests, and how Locust's events drive it. Start it with `python -m loadtest`.

Settings come from the environment; Locust's command line and web form (`options.py`) override them for one test.
"""

import logging
import signal
import sys
from typing import Any, ClassVar

import gevent
import locust.runners
import locust.stats
from flask import Response, jsonify, request
from locust import User, events, task
from locust.argument_parser import LocustArgumentParser
from locust.env import Environment
from locust.exception import StopUser
from locust.runners import MasterRunner, WorkerRunner

from loadtest import options
from loadtest.live.tab import install_live_tab
from loadtest.recording import run_pages
from loadtest.recording.recording import RunRecording, recording
from loadtest.sending import statistics_table
from loadtest.sending.exchange import Exchange
from loadtest.sending.shape import TeamShape
from loadtest.sending.team import Participant, Team
from loadtest.settings import LoadTestSettings
from stack.configuration.environment import ConfigError, load, load_or_exit
from stack.network import addresses

logger = logging.getLogger(__name__)

_PAUSE_AFTER_FAILURE_S = 1.0  # a target that refuses at once would otherwise be asked thousands of times a second

# Seconds without a sign of life until a worker counts as lost. Locust's 3 are too few for one that reads a long trace.
locust.runners.HEARTBEAT_LIVENESS = 8

# Annotated int, but any number will do.
locust.stats.bucket_response_time = statistics_table.three_digits  # type: ignore[assignment]


@events.init_command_line_parser.add_listener
def _offer_options(parser: LocustArgumentParser) -> None:
    options.offer(parser, load_or_exit(LoadTestSettings))


@events.init.add_listener
def _set_up(environment: Environment, **_: Any) -> None:
    """Bad options end the program with one line; a bad value in the form gets the line as answer and starts nothing."""
    settings = load_or_exit(LoadTestSettings, **options.chosen(vars(environment.parsed_options)))
    if environment.web_ui and environment.web_ui.app:
        _check_address(environment.web_ui.host, environment.web_ui.port)
        environment.web_ui.app.before_request(lambda: _refuse_bad_form(environment))
    kept = recording(environment)
    if isinstance(kept, RunRecording):
        assert isinstance(environment.shape_class, TeamShape)
        environment.shape_class.team = Team(environment, kept.begin)
        install_live_tab(environment, kept, settings.console_port)
        run_pages.install(environment, kept, settings.runs_dir)
        if environment.parsed_options and environment.parsed_options.headless:
            for number in (signal.SIGTERM, signal.SIGINT):
                gevent.signal_handler(number, _interrupt, environment)
    if not isinstance(environment.runner, MasterRunner):

        def receive(done: Exchange, settings: LoadTestSettings) -> None:
            kept.collector.add(done.record)
            if done.record.scheduled >= settings.loadtest_warmup_s:
                statistics_table.add(environment, done)

        StreamingUser.participant = Participant(environment, receive, kept.begin)


def _interrupt(environment: Environment) -> None:
    """End a test that Locust began itself as if it were over, without its open streams.

    Locust would handle SIGTERM only after it, and Python would raise KeyboardInterrupt in whatever greenlet runs: if
    that is the one that takes the workers' records, they are lost.
    """
    environment.stop_timeout = 0
    shape_worker = environment.runner.shape_greenlet if environment.runner else None
    if shape_worker is None:
        raise KeyboardInterrupt  # still waiting for its workers
    shape_worker.kill(block=False)


def _check_address(host: str, port: int) -> None:
    """Locust itself would show a traceback of its web server."""
    if reason := addresses.obstacle(host, port):
        print(f"LOCUST_PORT={port}: cannot listen on {host}: {reason}", file=sys.stderr)
        raise SystemExit(2)


def _refuse_bad_form(environment: Environment) -> Response | None:
    if request.endpoint != "locust.swarm":
        return None
    try:
        load(LoadTestSettings, **options.chosen(request.form))
        _check_users(environment, request.form.get("user_count", "1"), request.form.get("spawn_rate", "1"))
    except ConfigError as error:
        return jsonify({"success": False, "message": str(error)})
    if not request.form.get("run_time"):
        vars(environment.parsed_options)["run_time"] = None  # Locust would keep the last test's
    return None


def _check_users(environment: Environment, users: str, spawn_rate: str) -> None:
    """What Locust does not check for a shape."""
    lines = [
        f"{name}={value!r}: expected a number above 0"
        for name, value in (("users", users), ("spawn rate", spawn_rate))
        if not _is_positive(value)
    ]
    if isinstance(environment.runner, MasterRunner) and not environment.runner.worker_count:
        lines.append(
            "no worker is connected that could make the requests; a worker that was started connects in seconds"
        )
    if lines:
        raise ConfigError(lines)


def _is_positive(number: str) -> bool:
    try:
        return 0 < float(number) < float("inf")
    except ValueError:
        return False


@events.quitting.add_listener
def _finish(environment: Environment, **_: Any) -> None:
    environment.stop_timeout = 0  # only a signal gets here with a test still running: do not wait for its streams
    parsed = environment.parsed_options
    reports_to_master = isinstance(environment.runner, WorkerRunner)  # and so has no statistics of its own
    total = environment.stats.total
    if parsed and parsed.headless and not reports_to_master and total.num_requests <= total.num_failures:
        logger.error("no request was answered during the test")  # so it has tested nothing, which is no success
        environment.process_exit_code = 1


class StreamingUser(User):
    """In closed loop sends a request, reads its stream to the end, then sends the next; in open loop stands for all
    requests of this process, which do not wait for each other."""

    participant: ClassVar[Participant]

    def on_start(self) -> None:
        self._part = self.participant.part
        self._pause_s = 0.0

    def wait_time(self) -> float:
        return self._pause_s

    @task
    def take_part(self) -> None:
        if self._part is None:
            raise StopUser
        self._part.begun.wait()
        done = self._part.make_next() if self._part.is_closed_loop else None
        if done is None:
            self._part.over.wait()
            raise StopUser
        self._pause_s = _PAUSE_AFTER_FAILURE_S if done.failure else 0.0
