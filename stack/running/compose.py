"""The Docker way: docker compose with the files that COMPOSE_FILE names and the variables of `.env`."""

import os
import shutil
import subprocess
from pathlib import Path

from stack.configuration import env_file
from stack.configuration.settings import REPOSITORY, SERVICES, STORE, StackSettings
from stack.installation.build_inputs import build_inputs
from stack.network import addresses

PROBE_TIMEOUT_S = 20


def engine_version() -> str | None:
    """The version of the Docker engine that answers, or None."""
    return _answer("docker", "info", "--format", "{{.ServerVersion}}")


def compose_version() -> str | None:
    """The version of the compose plugin, or None; `docker-compose` (v1) does not count."""
    return _answer("docker", "compose", "version", "--short")


def is_available() -> bool:
    return engine_version() is not None and compose_version() is not None


def _answer(*command: str) -> str | None:
    if shutil.which(command[0]) is None:
        return None
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=PROBE_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired:
        return None
    return result.stdout.strip() or None if result.returncode == 0 else None


class Compose:
    """The services of this clone's compose project."""

    def __init__(self, settings: StackSettings) -> None:
        self.settings = settings

    def command(self, *arguments: str) -> list[str]:
        file: Path = env_file.path()
        named = ["--env-file", str(file)] if file.is_file() else []
        return ["docker", "compose", "--project-directory", str(REPOSITORY), *named, *arguments]

    def is_up(self) -> bool:
        """Whether any container of the project runs."""
        result = self._run("ps", "--quiet", capture_output=True)
        return result.returncode == 0 and bool(result.stdout.strip())

    def up(self) -> int:
        """Build, start and wait. Returns: compose's exit status.

        Raises: subprocess.CalledProcessError: what the builds need could be neither found nor made.
        """
        os.environ.update(build_inputs())
        chosen = [name for name in self.settings.stack_services if set(self.settings.stack_services) != set(SERVICES)]
        chosen += ["loadtest-worker"] if "loadtest" in chosen else []
        chosen += STORE if chosen and self.settings.has_store else []
        scale = {
            "prefill": self.settings.prefill_replicas,
            "decode": self.settings.decode_replicas,
            "loadtest-worker": self.settings.loadtest_workers,
        }
        scales = [part for name, number in scale.items() if number != 1 for part in ("--scale", f"{name}={number}")]
        limit = str(int(self.settings.stack_start_timeout_s))
        return self.call("up", "--detach", "--build", "--wait", "--wait-timeout", limit, *scales, *chosen)

    def call(self, *arguments: str) -> int:
        """Run compose on this terminal. Returns: its exit status."""
        print("+ " + " ".join(["docker", "compose", *arguments]), flush=True)
        return self._run(*arguments, capture_output=False).returncode

    def _addresses(self) -> dict[str, str]:
        """Names as addresses, which is all that compose takes; IPv6 in brackets where the overlay puts it into URLs."""
        written = addresses.bracketed if "compose.rdma.yaml" in self.settings.overlays else str
        given = {"BIND_ADDRESS": self.settings.bind_address, "VLLM_HOST_IP": self.settings.vllm_host_ip}
        return {name: written(value) for name, value in given.items() if value}

    def _run(self, *arguments: str, capture_output: bool) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            self.command(*arguments),
            cwd=REPOSITORY,
            env={**os.environ, "COMPOSE_FILE": self.settings.compose_file, **self._addresses()},
            capture_output=capture_output,
            text=True,
            check=False,
        )
