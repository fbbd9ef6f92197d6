"""One compose project of the tests' own: its name and ports are new, so it meets no other stack of the machine."""

import json
import os
import secrets
import socket
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from stack.configuration.settings import REPOSITORY
from stack.installation.build_inputs import build_inputs

BUILD_AND_START_LIMIT_S = 2400  # a first build installs 2 GiB; loading the model takes minutes on a busy machine
COMMAND_LIMIT_S = 300
LOG_LINES = "150"
# A developer's own choices must not change what is tested.
NOT_INHERITED = ("COMPOSE_FILE", "COMPOSE_PROFILES", "COMPOSE_PROJECT_NAME", "MODEL", "MODEL_DIR", "BIND_ADDRESS")


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@dataclass
class Project:
    """Runs `docker compose`; unless told otherwise for compose.yaml alone, behind a proxy that leads nowhere."""

    files: Sequence[str] = ("compose.yaml", "tests/compose/behind_a_proxy.yaml")
    variables: Mapping[str, str] = field(default_factory=dict)
    build: bool = True  # False: the images are there, as on a machine that cannot build
    name: str = field(default_factory=lambda: f"pd-stack-test-{secrets.token_hex(4)}")
    proxy_port: int = field(default_factory=free_port)
    locust_port: int = field(default_factory=free_port)

    @property
    def proxy_url(self) -> str:
        return f"http://127.0.0.1:{self.proxy_port}"

    @property
    def locust_url(self) -> str:
        return f"http://127.0.0.1:{self.locust_port}"

    def compose(self, *arguments: str, limit_s: float = COMMAND_LIMIT_S) -> str:
        """Standard output of `docker compose ARGUMENTS`; stderr passes through, so that pytest shows it on failure."""
        files = [part for file in self.files for part in ("--file", file)]
        command = ["docker", "compose", "--project-name", self.name, *files, "--env-file", os.devnull]
        return self._run([*command, *arguments], limit_s)

    def up(self, *arguments: str) -> None:
        """Build where wanted, start and wait until every service is healthy."""
        build = "--build" if self.build else "--no-build"
        self.compose("up", build, "--wait", *arguments, limit_s=BUILD_AND_START_LIMIT_S)

    def container_ids(self, *services: str) -> list[str]:
        return self.compose("ps", "--all", "--quiet", *services).split()

    def inspect(self, *services: str) -> list[dict[str, Any]]:
        """What the engine knows about the containers of these services, or of all, ended ones among them."""
        containers: list[dict[str, Any]] = json.loads(self.docker("inspect", *self.container_ids(*services)))
        return containers

    def docker(self, *arguments: str) -> str:
        return self._run(["docker", *arguments], COMMAND_LIMIT_S)

    def remains(self) -> list[str]:
        """Containers, volumes and networks of this project."""
        of_project = ("--quiet", "--filter", f"label=com.docker.compose.project={self.name}")
        return "".join(
            self.docker(*kind, *of_project) for kind in (("ps", "--all"), ("volume", "ls"), ("network", "ls"))
        ).split()

    def _run(self, command: list[str], limit_s: float) -> str:
        return subprocess.run(
            command,
            cwd=REPOSITORY,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
            timeout=limit_s,
            check=True,
        ).stdout

    def __post_init__(self) -> None:
        inherited = {name: value for name, value in os.environ.items() if name not in NOT_INHERITED}
        self._environment = {
            **inherited,
            **(build_inputs() if self.build else {}),
            **self.variables,
            "PROXY_PORT": str(self.proxy_port),
            "LOCUST_PORT": str(self.locust_port),
        }
