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
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from tests.unit.loadtest.locust_process import COMMAND, environment
from tests.unit.loadtest.scripted_server import MODEL, Script, ScriptedServer, Step, text

LIMIT_S = 30


@dataclass(frozen=True)
class Page:
    """Locust's page, with users whose first stream never ends; `asked` says that a request has reached the target."""

    url: str
    process: "subprocess.Popen[bytes]"
    bodies: list[dict[str, Any]]
    asked: threading.Event

    def start(self, **form: str) -> dict[str, Any]:
        encoded = urllib.parse.urlencode({"user_count": "1", "spawn_rate": "1", **form}).encode()
        with urllib.request.urlopen(self.url + "/swarm", encoded, timeout=LIMIT_S) as answer:
            result = json.load(answer)
        assert isinstance(result, dict)
        return result


@pytest.fixture
def page() -> Iterator[Page]:
    asked = threading.Event()

    async def never() -> None:
        asked.set()
        await asyncio.Event().wait()

    with ScriptedServer(lambda _: Script([Step(text("a"), wait=never)])).running() as server:
        with socket.socket() as found:
            found.bind(("127.0.0.1", 0))
            port = found.getsockname()[1]
        variables = {"LOADTEST_TARGET": server.url, "LOCUST_PORT": str(port), "LOADTEST_DRAIN_S": "600"}
        process = subprocess.Popen(
            COMMAND,
            env=environment(**variables),
            stdin=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        url = f"http://127.0.0.1:{port}"
        try:
            _wait_for(url, process)
            yield Page(url, process, server.bodies, asked)
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
    with urllib.request.urlopen(page.url + "/stats/requests", timeout=LIMIT_S) as stats:
        assert json.load(stats)["state"] == "ready"


def test_sigterm_does_not_wait_for_open_streams(page: Page) -> None:
    """LOADTEST_DRAIN_S is 600 here: it is for the Stop button, not for the end of the program."""
    assert page.start()["success"]
    assert page.asked.wait(LIMIT_S)
    page.process.terminate()
    page.process.wait(LIMIT_S)


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
