"""The Locust file: users who stream completions, one after the other. Start it with `python -m loadtest`.

Settings come from the environment; Locust's command line and web form (`options.py`) override them for one test.
"""

import itertools
import logging
import os
import socket
import sys
import time
from collections.abc import Iterator
from typing import Any, ClassVar

import locust.stats
from flask import Response, jsonify, request
from locust import User, events, task
from locust.argument_parser import LocustArgumentParser
from locust.env import Environment
from locust.runners import WorkerRunner

from loadtest import options
from loadtest.client import CompletionClient
from loadtest.errors import RequestFailed
from loadtest.measurement import StreamObserver
from loadtest.settings import LoadTestSettings
from loadtest.statistics_table import add_failure, add_measurement, three_digits
from loadtest.workload import WORKLOADS
from stack.environment import ConfigError, load, load_or_exit

logger = logging.getLogger(__name__)

_PAUSE_AFTER_FAILURE_S = 1.0  # a target that refuses at once would otherwise be asked thousands of times a second

_REQUESTS_OF_A_WORKER = 10**9  # worker n counts from n times this, so that no two workers send the same prompts

locust.stats.bucket_response_time = three_digits  # type: ignore[assignment]  # annotated int, but any number will do


@events.init_command_line_parser.add_listener
def _offer_options(parser: LocustArgumentParser) -> None:
    options.offer(parser, load_or_exit(LoadTestSettings))


@events.init.add_listener
def _check_options(environment: Environment, **_: Any) -> None:
    """Bad options end the program with one line; a bad value in the form gets the line as answer and starts nothing."""
    load_or_exit(LoadTestSettings, **options.chosen(vars(environment.parsed_options)))
    if environment.web_ui and environment.web_ui.app:
        _check_address(environment.web_ui.host, environment.web_ui.port)
        environment.web_ui.app.before_request(_refuse_bad_form)


def _check_address(host: str, port: int) -> None:
    """Locust itself would show a traceback of its web server."""
    try:
        socket.create_server((host, port)).close()
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        print(f"LOCUST_PORT={port}: cannot listen on {host}: {reason}", file=sys.stderr)
        raise SystemExit(2) from error


def _refuse_bad_form() -> Response | None:
    if request.endpoint == "locust.swarm":
        try:
            load(LoadTestSettings, **options.chosen(request.form))
        except ConfigError as error:
            return jsonify({"success": False, "message": str(error)})
    return None


@events.test_start.add_listener
def _begin(environment: Environment, **_: Any) -> None:
    StreamingUser.settings = load(LoadTestSettings, **options.chosen(vars(environment.parsed_options)))
    worker = getattr(environment.runner, "worker_index", 0)
    StreamingUser.indices = itertools.count(worker * _REQUESTS_OF_A_WORKER)


@events.quitting.add_listener
def _finish(environment: Environment, **_: Any) -> None:
    environment.stop_timeout = 0  # only a signal gets here with a test still running: do not wait for its streams
    parsed = environment.parsed_options
    reports_to_master = isinstance(environment.runner, WorkerRunner)  # and so has no statistics of its own
    if parsed and parsed.headless and not reports_to_master and not environment.stats.num_requests:
        logger.error("no request was answered during the test")  # so it has tested nothing, which is no success
        environment.process_exit_code = 1


class StreamingUser(User):
    """Sends a request, reads its stream to the end, then sends the next: a closed loop."""

    settings: ClassVar[LoadTestSettings]  # of the test that runs; all users of a test share these two
    indices: ClassVar[Iterator[int]]

    def on_start(self) -> None:
        key = self.settings.openai_api_key
        self._client = CompletionClient(
            self.settings.target,
            timeout_s=self.settings.loadtest_timeout_s,
            api_key=key.get_secret_value() if key else None,
        )
        self._model = self.settings.loadtest_model
        self._pause_s = 0.0

    def on_stop(self) -> None:
        self._client.close()

    def wait_time(self) -> float:
        return self._pause_s

    @task
    def complete(self) -> None:
        scheduled_at = time.perf_counter()
        method, path = "GET", "/v1/models"
        try:
            model = self._model = self._model or self._client.served_model()
            completion = WORKLOADS[self.settings.loadtest_workload](self.settings, model, next(self.indices))
            method, path = "POST", completion.path
            scheduled_at = time.perf_counter()
            observer = StreamObserver(scheduled_at, started_at=scheduled_at)
            for arrived_at, event in self._client.stream(completion):
                observer.receive(arrived_at, event)
            measurement = observer.finish()
        except RequestFailed as failure:
            add_failure(self.environment, method, path, time.perf_counter() - scheduled_at, failure)
            self._pause_s = _PAUSE_AFTER_FAILURE_S
        else:
            add_measurement(self.environment, path, measurement)
            self._pause_s = 0.0
