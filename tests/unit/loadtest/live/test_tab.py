"""The tab in Locust's own page, from a load test that was started as a user starts it."""

import contextlib
import json
import re
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.unit.loadtest.locust_process import COMMAND, environment
from tests.unit.loadtest.scripted_server import ScriptedServer, completion

LIMIT_S = 60
PAGES = ("page.html", "page.css", "page.js", "charts.js", "tab.js", "plotly.min.js")
FORM = {"user_count": "1", "spawn_rate": "1", "workload": "curl", "requests": "3"}


@contextmanager
def locust(target: str, folder: Path, options: Sequence[str] = (), base_path: str = "") -> Iterator[str]:
    """Yields: the address of Locust's page, without the / at its end."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    process = subprocess.Popen(
        [*COMMAND, *options],
        env=environment(LOADTEST_TARGET=target, LOCUST_PORT=str(port), CONSOLE_PORT="8123", STACK_DIR=str(folder)),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    url = f"http://127.0.0.1:{port}{base_path}"
    try:
        wait_for(lambda: process.poll() is not None or answers(url + "/"), "Locust's page")
        assert process.poll() is None, "Locust ended"
        yield url
    finally:
        process.kill()
        process.wait(LIMIT_S)


def wait_for(happened: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not happened():
        assert time.monotonic() < deadline, f"{what}: not within {LIMIT_S} s"
        time.sleep(0.1)


def answers(url: str) -> bool:
    with contextlib.suppress(urllib.error.URLError):
        return bool(get(url))
    return False


def get(url: str, form: Mapping[str, str] | None = None) -> bytes:
    encoded = None if form is None else urllib.parse.urlencode(form).encode()
    with urllib.request.urlopen(url, encoded, timeout=LIMIT_S) as answer:
        return bytes(answer.read())


def data(url: str) -> dict[str, Any]:
    told = json.loads(get(url + "/live/data"))
    assert isinstance(told, dict)
    return told


def status(url: str) -> int:
    try:
        with urllib.request.urlopen(url, timeout=LIMIT_S) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code


def template_arguments(page: str) -> dict[str, Any]:
    found = re.search(r"window\.templateArgs = (.*)", page)
    assert found is not None
    arguments = json.loads(found[1])
    assert isinstance(arguments, dict)
    return arguments


def test_a_run_and_the_next_one(tmp_path: Path) -> None:
    """Below a path of the user's, which Locust calls the base path."""
    with (
        ScriptedServer(lambda _: completion(3)).running() as server,
        locust(server.url, tmp_path, ["--web-base-path", "/load/test"], "/load/test") as url,
    ):
        page = get(url + "/").decode()
        assert template_arguments(page)["extended_tabs"] == [{"key": "live", "title": "Latency & goodput"}]
        assert page.count('src="./live/tab.js" data-title="Latency &amp; goodput"') == 1
        assert [status(f"{url}/live/{name}") for name in PAGES] == [200] * len(PAGES)
        assert data(url) == {"state": "ready", "console_port": 8123}

        def is_over() -> bool:
            return "report.html" in data(url).get("files", ())

        folders: list[str] = []
        for _ in range(2):
            assert json.loads(get(url + "/swarm", FORM))["success"]
            wait_for(lambda: data(url).get("run") not in (None, *folders) and is_over(), "the end of the run")
            told = data(url)
            folders.append(told["run"])
            assert told["totals"]["completed"] == 3
            assert sum(count or 0 for count in told["windows"]["itl_p50_s"]) > 0
            assert told["files"] == ["report.html", "report.md", "run.json", "requests.jsonl"]
            for name in told["files"]:
                assert get(f"{url}/runs/{told['run']}/{name}") == (tmp_path / "runs" / told["run"] / name).read_bytes()


def test_nothing_without_the_login_that_locust_asks_for(tmp_path: Path) -> None:
    """`--web-login` needs a login manager of the user's own; without one Locust shows a text in place of every page."""
    with locust("http://127.0.0.1:9", tmp_path, ["--web-login"]) as url:
        refused = get(url + "/")
        assert refused.startswith(b"Locust auth exception")
        assert {get(f"{url}/live/{name}") for name in (*PAGES, "data")} == {refused}
