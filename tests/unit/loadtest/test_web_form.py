"""Locust's web server as `python -m loadtest` starts it: where it listens, what the form may ask for, how it ends."""

import asyncio
import contextlib
import json
import socket
import subprocess
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.unit.loadtest.locust_process import COMMAND, environment
from tests.unit.loadtest.scripted_server import MODEL, Script, ScriptedServer, Step, completion, text

LIMIT_S = 30


@dataclass(frozen=True)
class Page:
    """Locust's page, with users whose first stream never ends; `asked` says that a request has reached the target."""

    url: str
    process: "subprocess.Popen[bytes]"
    bodies: list[dict[str, Any]]
    asked: threading.Event

    def statistics(self) -> dict[str, Any]:
        with urllib.request.urlopen(self.url + "/stats/requests", timeout=LIMIT_S) as answer:
            result = json.load(answer)
        assert isinstance(result, dict)
        return result

    def requests(self) -> int:
        """That the table counts."""
        return sum(row["num_requests"] for row in self.statistics()["stats"] if row["name"] == "/v1/completions")

    def start(self, **form: str) -> dict[str, Any]:
        encoded = urllib.parse.urlencode({"user_count": "1", "spawn_rate": "1", **form}).encode()
        with urllib.request.urlopen(self.url + "/swarm", encoded, timeout=LIMIT_S) as answer:
            result = json.load(answer)
        assert isinstance(result, dict)
        return result


@pytest.fixture
def page(tmp_path: Path) -> Iterator[Page]:
    asked = threading.Event()

    async def never() -> None:
        asked.set()
        await asyncio.Event().wait()

    answered = ScriptedServer(lambda _: Script([Step(text("a"), wait=never)]))
    with answered.running() as server, _locust(server, tmp_path, LOADTEST_DRAIN_S="600") as (url, process):
        yield Page(url, process, server.bodies, asked)


@contextlib.contextmanager
def _locust(server: ScriptedServer, folder: Path, **variables: str) -> Iterator[tuple[str, "subprocess.Popen[bytes]"]]:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = str(found.getsockname()[1])
    settings = {"LOADTEST_TARGET": server.url, "LOCUST_PORT": port, "STACK_DIR": str(folder)}
    process = subprocess.Popen(
        COMMAND,
        env=environment(**settings, **variables),
        stdin=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    url = f"http://127.0.0.1:{port}"
    try:
        _wait_for(url, process)
        yield url, process
    finally:
        process.kill()
        process.wait(LIMIT_S)


def _wait_for(url: str, process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + LIMIT_S
    while True:
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=LIMIT_S):
            return
        assert process.poll() is None, "Locust ended"
        assert time.monotonic() < deadline, "Locust's page does not answer"
        time.sleep(0.1)


def test_form_overrides_the_environment(page: Page) -> None:
    answer = page.start(workload="chat", model="another", seed="3", input_tokens="5", output_tokens="9")
    assert answer["success"], answer
    assert page.asked.wait(LIMIT_S)
    (body,) = page.bodies
    assert body["model"] == "another"
    assert body["max_tokens"] == 9
    assert len(body["messages"][0]["content"].split()) == 5


def test_empty_fields_mean_the_default_target_and_its_model(page: Page) -> None:
    assert page.start(model="", host="")["success"]
    assert page.asked.wait(LIMIT_S)
    assert page.bodies[0]["model"] == MODEL


def test_bad_value_is_answered_and_starts_nothing(page: Page) -> None:
    answer = page.start(host="proxy", input_tokens="0", output_tokens="many")
    assert not answer["success"]
    assert [line.split(":")[0] for line in answer["message"].splitlines()] == [
        "LOADTEST_TARGET='proxy'",
        "LOADTEST_INPUT_TOKENS='0'",
        "LOADTEST_OUTPUT_TOKENS='many'",
    ]
    assert page.statistics()["state"] == "ready"


def test_bad_load_is_answered(page: Page) -> None:
    bad: tuple[tuple[dict[str, str], str], ...] = (
        ({"user_count": "0"}, "users='0': expected a number above 0"),
        ({"spawn_rate": "nan"}, "spawn rate='nan': expected a number above 0"),
        ({"arrivals": "poisson", "rate": "0"}, "LOADTEST_RATE='0': Input should be greater than 0"),
        ({"stages": "60"}, "LOADTEST_STAGES='60': '60' is none of the stages seconds:value or"),
    )
    for form, line in bad:
        answer = page.start(**form)
        assert not answer["success"]
        assert answer["message"].startswith(line)


def test_sigterm_does_not_wait_for_open_streams(page: Page) -> None:
    """LOADTEST_DRAIN_S is 600 here: it is for the Stop button, not for the end of the program."""
    assert page.start()["success"]
    assert page.asked.wait(LIMIT_S)
    page.process.terminate()
    page.process.wait(LIMIT_S)


def test_workers_behind_the_page(tmp_path: Path) -> None:
    """Two tests, the second right after the first; then a signal to the page's process ends the workers too."""
    target = ScriptedServer(lambda _: completion(2))
    with target.running() as server, _locust(server, tmp_path, LOADTEST_WORKERS="2") as (url, process):
        page = Page(url, process, server.bodies, threading.Event())
        listed = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
        workers = [Path("/proc") / child for child in listed.split()]
        assert len(workers) == 2
        _until(lambda: page.start(arrivals="constant", rate="20", requests="6")["success"])  # they have connected
        _until(lambda: page.statistics()["state"] == "stopped")
        _until(lambda: page.requests() == len(server.bodies) == 6)
        _until(lambda: page.start(arrivals="constant", rate="20", requests="3")["success"])  # and are ready again
        _until(lambda: len(server.bodies) == 6 + 3 and page.requests() == 3)
        process.terminate()
        process.wait(LIMIT_S)
        _until(lambda: not any(worker.exists() for worker in workers))


def _until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_port_in_use_is_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        run = subprocess.run(
            COMMAND,
            env=environment(LOCUST_PORT=str(port)),
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            check=False,
        )
    assert run.returncode == 2
    assert f"LOCUST_PORT={port}: cannot listen on 127.0.0.1: Address already in use" in run.stderr.splitlines()
    assert "Traceback" not in run.stderr
