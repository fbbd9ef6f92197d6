"""Schedules that do not wait for answers, as `python -m loadtest --headless` keeps them, against a scripted server."""

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from loadtest.sending.arrivals import schedule
from loadtest.settings import LoadTestSettings
from stack.configuration.environment import load
from tests.unit.loadtest.locust_process import environment, headless, start_headless
from tests.unit.loadtest.scripted_server import Script, ScriptedServer, Step, completion, text

LIMIT_S = 60


class Together:
    """Answers nobody before so many requests are there; a client that waits for answers would wait for ever."""

    def __init__(self, requests: int) -> None:
        self._missing = requests
        self._there = asyncio.Event()

    def __call__(self, body: dict[str, Any]) -> Script:
        self._missing -= 1
        if not self._missing:
            self._there.set()
        return completion(2, first=self._there.wait)


def never_ends(body: dict[str, Any]) -> Script:
    return Script([Step(text("a")), Step(text("b"), wait=asyncio.Event().wait)])


def scheduled(requests: int, **settings: Any) -> list[float]:
    chosen = load(LoadTestSettings, **{f"loadtest_{name}": value for name, value in settings.items()})
    return list(schedule(chosen, None, float("inf"), requests))


def test_stalled_server_delays_answers_and_no_request() -> None:
    """No clock decides: the first answer comes after the last request, so every request was sent without waiting."""
    with ScriptedServer(Together(20)).running() as server:
        run = headless(server.url, "--arrivals", "gamma", "--rate", "20", "--burstiness", "0.5", "--requests", "20")
    assert run.exit_code == 0, run.log
    assert [record.outcome for record in run.records] == ["completed"] * 20
    last_start = max(record.started for record in run.records)
    assert all(record.started >= record.scheduled for record in run.records)
    assert all(record.first_content is not None and record.first_content >= last_start for record in run.records)
    first = run.records[0]
    assert first.ttft is not None
    assert first.ttft >= last_start - first.scheduled  # the wait counts, from the scheduled start
    assert run.rows["start delay"]["num_requests"] == 20


def test_workers_make_the_same_schedule_once() -> None:
    with ScriptedServer(Together(30)).running() as server:
        run = headless(
            server.url,
            *("--arrivals", "poisson", "--stages", "1:10,9:10-40", "--requests", "30", "--seed", "5"),
            LOADTEST_WORKERS="3",
        )
    assert run.exit_code == 0, run.log
    assert [record.index for record in run.records] == list(range(30))
    expected = scheduled(30, arrivals="poisson", stages="1:10,9:10-40", seed=5)
    assert [record.scheduled for record in run.records] == pytest.approx(expected, abs=1e-5)
    assert len({body["prompt"] for body in server.bodies}) == len(server.bodies) == 30
    assert run.rows["/v1/completions"]["num_requests"] == 30


def test_lost_worker_is_reported_and_fails_the_run(tmp_path: Path) -> None:
    """Of two workers one is killed at its first request: half of the schedule is made, and the run says so."""
    asked = threading.Event()

    def answer(body: dict[str, Any]) -> Script:
        asked.set()
        return completion(1)

    with ScriptedServer(answer).running() as server:
        options = ("--arrivals", "constant", "--rate", "10", "--requests", "60")
        run = start_headless(server.url, tmp_path / "run", *options, LOADTEST_WORKERS="2")
        assert asked.wait(LIMIT_S)
        os.kill(run.children()[0], signal.SIGKILL)
        finished = run.wait()
    assert finished.exit_code == 1, finished.log
    assert "of 2: WorkerLost: it left during the test, and its share of the schedule with it" in finished.log
    indices = {record.index for record in finished.records}
    assert set(range(0, 60, 2)) <= indices or set(range(1, 60, 2)) <= indices
    assert len(indices) < 60


def test_late_worker_changes_nothing(tmp_path: Path) -> None:
    """Master and workers as processes of their own, as in compose; the second worker comes when requests are made."""
    asked = threading.Event()

    def answer(body: dict[str, Any]) -> Script:
        asked.set()
        return completion(1)

    port = free_port()
    options = ("--arrivals", "constant", "--rate", "5", "--requests", "40")
    here = ("--master-bind-host", "127.0.0.1", "--master-bind-port", port)
    with ScriptedServer(answer).running() as server, contextlib.ExitStack() as running:
        run = start_headless(server.url, tmp_path / "run", "--master", "--expect-workers", "1", *here, *options)
        running.enter_context(worker(server.url, port))
        assert asked.wait(LIMIT_S)
        running.enter_context(worker(server.url, port))
        finished = run.wait()
    assert finished.exit_code == 0, finished.log
    assert "a worker connected during the test: it has no part in it" in finished.log
    assert [record.index for record in finished.records] == list(range(40))


def test_workers_whose_clocks_differ_keep_the_masters_schedule(tmp_path: Path) -> None:
    """One would otherwise make its requests half a minute late, the other all of them at once."""
    arrived: list[float] = []

    def answer(body: dict[str, Any]) -> Script:
        arrived.append(time.monotonic())
        return completion(1)

    port = free_port()
    options = ("--arrivals", "constant", "--rate", "5", "--requests", "20")
    here = ("--master-bind-host", "127.0.0.1", "--master-bind-port", port)
    logs = {ahead: tmp_path / f"worker{ahead}.log" for ahead in (-30, 30)}
    with ScriptedServer(answer).running() as server, contextlib.ExitStack() as running:
        run = start_headless(server.url, tmp_path / "run", "--master", "--expect-workers", "2", *here, *options)
        for ahead, log in logs.items():
            running.enter_context(worker(server.url, port, ahead=ahead, log=log))
        finished = run.wait()
    assert finished.exit_code == 0, finished.log
    assert [record.index for record in finished.records] == list(range(20))
    assert all(record.started - record.scheduled < 15 for record in finished.records)
    assert arrived[-1] - arrived[0] < 20
    assert " s behind the master's" in logs[-30].read_text()
    assert " s ahead of the master's" in logs[30].read_text()


def free_port() -> str:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return str(found.getsockname()[1])


# The wall clock of a process, that of Locust included, before anything else reads it.
WITH_CLOCK_AHEAD = """
import runpy, sys, time
real, ahead = time.time, float(sys.argv.pop(1))
time.time = lambda: real() + ahead
runpy.run_module("loadtest", run_name="__main__", alter_sys=True)
"""


@contextlib.contextmanager
def worker(target: str, port: str, ahead: float = 0, log: Path = Path(os.devnull)) -> Iterator[None]:
    with log.open("w") as stderr:
        process = subprocess.Popen(
            [
                *(sys.executable, "-c", WITH_CLOCK_AHEAD, str(ahead)),
                *("--worker", "--master-host", "127.0.0.1", "--master-port", port),
            ],
            env=environment(LOADTEST_TARGET=target),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=stderr,
        )
    try:
        yield
        process.wait(LIMIT_S)
    finally:
        process.kill()
        process.wait(LIMIT_S)


def test_clients_that_leave_are_no_failure() -> None:
    """Two are answered, four find no end and leave."""
    answers = iter([completion(2), completion(2)])
    with ScriptedServer(lambda body: next(answers, None) or never_ends(body)).running() as server:
        options = ("--arrivals", "constant", "--rate", "10", "--requests", "6")
        run = headless(server.url, *options, "--cancel-rate", "1", "--cancel-after", "3")
    assert run.exit_code == 0, run.log
    left = [record for record in run.records if record.outcome == "cancelled"]
    assert [record.outcome for record in run.records if record not in left] == ["completed"] * 2
    assert len(left) == 4
    assert all(record.error is None and record.ended - record.started > 2.9 for record in left)
    assert (run.rows["cancelled"]["num_requests"], run.rows["/v1/completions"]["num_requests"]) == (4, 2)


def test_warm_up_is_made_but_not_counted() -> None:
    with ScriptedServer(lambda _: completion(1)).running() as server:
        options = ("--arrivals", "constant", "--rate", "10", "--run-time", "2s", "--warmup", "1")
        run = headless(server.url, *options)
    assert run.exit_code == 0, run.log
    assert len(run.records) == len(server.bodies) == 20
    assert run.rows["/v1/completions"]["num_requests"] == 10


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        pytest.param(lambda _: completion(1, first=asyncio.Event().wait), "failed", id="no answer"),
        pytest.param(never_ends, "cut_off", id="half an answer"),
    ],
)
def test_requests_without_an_end_are_failures_when_the_test_is_over(answer: Any, outcome: str) -> None:
    with ScriptedServer(answer).running() as server:
        options = ("--arrivals", "constant", "--rate", "10", "--requests", "3")
        run = headless(server.url, *options, LOADTEST_DRAIN_S="1")
    assert run.exit_code == 1, run.log
    assert [(record.outcome, record.error) for record in run.records] == [(outcome, "Unfinished")] * 3


def test_what_the_proxy_says_is_in_the_record() -> None:
    whole = completion(2)
    headers = {"X-Request-Id": "abc", "X-PD-Path": "local", "X-PD-Kv-Tokens": "5", "Server-Timing": "queue;dur=0.41"}
    comment = b': pd {"path": "disaggregated", "producer": "p-0", "kv_bytes": 4096, "transfer_ms": 1.5, "x": 1}\n\n'
    comment = comment.replace(b"}", b', "first_token": "producer", "second_token_ms": 7}')
    with ScriptedServer(lambda _: Script([*whole.steps, Step(comment)], headers=headers)).running() as server:
        run = headless(server.url, "--arrivals", "constant", "--requests", "1")
    (record,) = run.records
    assert (record.request_id, record.path, record.producer) == ("abc", "disaggregated", "p-0")
    assert (record.kv_tokens, record.kv_bytes) == (5, 4096)
    assert (record.first_token, record.second_token) == ("producer", 0.007)
    assert record.phases == pytest.approx({"queue": 0.00041, "transfer": 0.0015})
    assert (record.prompt_tokens, record.output_tokens, record.finish_reason) == (4, 2, "length")


def test_users_follow_the_stages() -> None:
    """Nobody is answered before three ask at once, which are there only in the second stage."""
    with ScriptedServer(Together(3)).running() as server:
        run = headless(server.url, "--stages", "2:1,60:3", "--requests", "6")
    assert run.exit_code == 0, run.log
    assert len(run.records) == 6
    assert sorted(record.index for record in run.records) == list(range(6))


def test_trace_time_needs_a_workload_with_times() -> None:
    with ScriptedServer(lambda _: completion(1)).running() as server:
        run = headless(server.url, "--arrivals", "trace")
    assert run.exit_code == 1
    assert "LOADTEST_ARRIVALS=trace: workload random has no times of its own" in run.log
    assert not server.bodies
