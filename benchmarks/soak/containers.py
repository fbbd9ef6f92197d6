"""The stack in Docker's containers, as seen through the `docker` command."""

import json
import os
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.soak.stack import Member, Unreachable
from stack.configuration.settings import REPOSITORY, StackSettings
from stack.running.compose import Compose

COMMAND_LIMIT_S = 60.0
RUNS = "/var/lib/stack/runs"  # of the service loadtest, in compose.yaml
# The instances' network is no other's, so the proxy's container asks.
GET = "import sys, stack.network.direct_http as d; sys.stdout.write(d.open_directly(sys.argv[1], 10).read().decode())"
UNITS = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "kB": 10**3, "MB": 10**6, "GB": 10**9}


class StackOfContainers:
    def __init__(self, settings: StackSettings) -> None:
        self._compose = Compose(settings)
        self._environment = {**os.environ, "COMPOSE_FILE": settings.compose_file}

    def is_up(self) -> bool:
        return self._compose.is_up()

    def members(self) -> list[Member]:
        containers = _lines(self._run(self._compose.command("ps", "--format", "json")))
        ids = [row["ID"] for row in containers]
        stats = _lines(self._run(["docker", "stats", "--no-stream", "--format", "{{json .}}", *ids]))
        return members_of(containers, stats, json.loads(self._run(["docker", "inspect", *ids])))

    def read(self, url: str) -> str:
        return self._run(self._compose.command("exec", "--no-TTY", "proxy", "python", "-c", GET, url))

    def run_folder(self, wanted: Path) -> str:
        return f"{RUNS}/{wanted.parent.name}"

    def fetch(self, wanted: Path) -> None:
        wanted.mkdir(parents=True, exist_ok=True)
        self._run(self._compose.command("cp", f"loadtest:{self.run_folder(wanted)}/.", str(wanted)))

    def end_load(self, load: "subprocess.Popen[bytes]") -> None:
        # What `docker compose exec` has started goes on without it.
        load.kill()
        load.wait()
        self._run(self._compose.command("restart", "loadtest"))

    def _run(self, words: Sequence[str]) -> str:
        try:
            return subprocess.run(
                words,
                cwd=REPOSITORY,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=COMMAND_LIMIT_S,
                check=True,
            ).stdout
        except subprocess.CalledProcessError as error:
            raise Unreachable(f"{words[0]} {words[1]}: {error.stderr.strip()[-200:]}") from error
        except subprocess.TimeoutExpired as error:
            raise Unreachable(f"{words[0]} {words[1]}: no answer for {COMMAND_LIMIT_S:g} s") from error


def members_of(
    containers: Sequence[dict[str, Any]], stats: Sequence[dict[str, Any]], inspected: Sequence[dict[str, Any]]
) -> list[Member]:
    """From what `docker compose ps`, `docker stats` and `docker inspect` say."""
    memory = {row["Name"]: _bytes(row["MemUsage"].split("/")[0]) for row in stats}
    started = {row["Name"].removeprefix("/"): row["State"]["StartedAt"] for row in inspected}
    return [
        Member(_member(row["Name"], row["Service"]), started[row["Name"]], memory[row["Name"]])
        for row in containers
        if row["Name"] in memory and row["Name"] in started
    ]


def _lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def _member(container: str, service: str) -> str:
    """pd-stack-decode-1 is decode-0, as supervisord counts."""
    number = re.search(r"-(\d+)$", container)
    return f"{service}-{int(number[1]) - 1}" if number else service


def _bytes(text: str) -> int:
    """`docker stats` writes 123.4MiB."""
    text = text.strip()
    found = re.fullmatch(r"([\d.]+)([A-Za-z]+)", text)
    if found is None or found[2] not in UNITS:
        raise Unreachable(f"docker stats: memory {text!r}, expected a number and one of {', '.join(UNITS)}")
    return int(float(found[1]) * UNITS[found[2]])
