"""What the parts of one run share: the scripted server, and one run of our load test against any server."""

import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path

from benchmarks.deadline import Deadline
from benchmarks.errors import RequestFailed
from benchmarks.loadtest.options import Options
from benchmarks.loadtest.scripted_server import Script, Sent
from benchmarks.processes import Launch, Processes
from benchmarks.results import Results, dump
from loadtest.figures.record import RequestRecord
from loadtest.runs.requests_file import NAME, SavedRequests
from loadtest.runs.run_folder import Run as LoadTestRun
from stack.configuration.settings import REPOSITORY

POLL_S = 0.1
MARGIN_S = 240.0  # for the start, the last answers and the report of a load test


@dataclass(frozen=True)
class Load:
    """What one run of the load test has left."""

    records: list[RequestRecord]
    run: LoadTestRun

    @property
    def completed(self) -> list[RequestRecord]:
        return [record for record in self.records if record.outcome == "completed"]


class Run:
    def __init__(
        self,
        options: Options,
        ports: Iterator[int],
        scratch: Path,
        processes: Processes,
        results: Results,
        deadline: Deadline,
    ) -> None:
        self.options = options
        self.results = results
        self.deadline = deadline
        self.scratch = scratch
        self._ports = ports
        self._processes = processes
        self._numbers = count()

    @contextmanager
    def scripted(self, ttft_s: tuple[float, float], gap_s: tuple[float, float]) -> Iterator["ScriptedServer"]:
        """Raises: CannotStart, OutOfTime."""
        script = Script(next(self._ports), ttft_s, gap_s)
        name = f"scripted-{next(self._numbers)}"
        command = (sys.executable, "-m", "benchmarks.loadtest.scripted_server", dump(asdict(script)))
        self._processes.start([Launch(name, command, dict(os.environ), REPOSITORY)])
        server = ScriptedServer(script)
        try:
            while not server.answers():
                self.deadline.left()
                self._processes.check()
                time.sleep(POLL_S)
            yield server
        finally:
            self._processes.end([name])

    def load(self, target: str, seconds: float, *arguments: str, workers: int = 1) -> Load:
        """Our load test, without a page. Raises: RequestFailed: it did not come to its end; OutOfTime."""
        folder = self.scratch / f"load-{next(self._numbers)}"
        words = [sys.executable, "-m", "loadtest", "--headless", "--host", target, "--run-dir", str(folder), *arguments]
        self.tool(words, seconds, {"LOADTEST_WORKERS": str(workers)})
        return Load(list(SavedRequests(folder / NAME)), LoadTestRun.read(folder))

    def tool(self, words: Sequence[str], seconds: float, variables: Mapping[str, str] | None = None) -> None:
        """Run a load generator. Raises: RequestFailed: with the end of what it printed; OutOfTime."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith("LOADTEST_")}
        try:
            done = subprocess.run(
                words,
                cwd=REPOSITORY,
                env={**environment, **(variables or {})},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=min(seconds + MARGIN_S, self.deadline.left()),
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            self.deadline.left()
            raise RequestFailed(f"{words[2]} did not end within {seconds + MARGIN_S:.0f} s") from error
        if done.returncode != 0:
            printed = (done.stdout + done.stderr).strip()
            last = printed.splitlines()[-1] if printed else "it printed nothing"
            raise RequestFailed(f"{words[2]} ended with status {done.returncode}: {last}\n{printed[-1500:]}")


class ScriptedServer:
    """One that runs."""

    def __init__(self, script: Script) -> None:
        self.url = f"http://127.0.0.1:{script.port}"

    def answers(self) -> bool:
        try:
            self._get("/v1/models")
        except (urllib.error.URLError, OSError):
            return False
        return True

    def sent(self) -> dict[str, Sent]:
        """Of the streams that have ended since the last call, by their X-Request-Id."""
        found = [Sent.of_json(line) for line in self._get("/sent").splitlines()]
        return {str(one.stream): one for one in found}

    def _get(self, path: str) -> bytes:
        with urllib.request.urlopen(self.url + path, timeout=30) as answer:
            body: bytes = answer.read()
        return body
