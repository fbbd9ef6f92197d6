"""One side of a comparison: the stack as its users start it, with state and ports of its own, and ended afterwards.

The load generator runs beside it, in this very environment: the same in every way of starting the stack. On a machine
whose cores the stack keeps busy it would send its requests late; so processes of the stack yield to it.
"""

import json
import signal
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks.errors import CannotStart
from benchmarks.processes import Launch, Processes
from stack.configuration.settings import REPOSITORY, StackSettings
from stack.network.addresses import http_url

# All but the load test, whose idle web page would take its share of the machine.
SERVICES = "etcd,prefill,decode,proxy"
END_LIMIT_S = 180.0
SET_UP_S = 1800.0  # environments or images may have to be made first
REGISTRATION_LIMIT_S = 60.0
POLL_S = 0.2
NICENESS = 5  # a third of the share of a process that has none
VLLM = "vllm.entrypoints.launchers.api_server.entry"
# The last is the one from which replicas take more than a few: nothing else may be given the ports after it.
PORTS = ("PROXY_PORT", "LOCUST_PORT", "ETCD_PORT", "PREFILL_PORT", "DECODE_PORT", "STORE_PORT", "CONTROL_PORT")
PORTS_IN_CONTAINERS = (8100, 8200)  # of every replica


@dataclass(frozen=True)
class Target:
    """`url`: base URL of the API to measure. `instances`: so many vLLM servers are behind it.

    `tokenizer`: of our proxy, which counts its tokens, where another one serves it; empty: it does itself.
    """

    url: str
    instances: int
    tokenizer: str = ""

    def check(self) -> None:
        """Raises: CannotStart: servers are missing, and have not come back in time."""
        wait_for_instances(self.tokenizer or self.url, self.instances, REGISTRATION_LIMIT_S)


class StackSide:
    """The stack that `users` settings describe, in the ways that a comparison has it, its state in `folder`."""

    def __init__(
        self, users: StackSettings, python: Path, folder: Path, ports: Iterator[int], processes: Processes
    ) -> None:
        self._users, self._python, self._folder = users, python, folder
        self._ports, self._processes = ports, processes

    def variables(self, base: Mapping[str, str], compose_file: str) -> dict[str, str]:
        """The environment of a stack that meets no other one of this machine; what lasts lies where the user's does."""
        # With Docker, models lie in a volume unless the user names a folder.
        models = {} if self._users.stack_mode == "docker" else {"MODEL_DIR": str(self._users.models)}
        return {
            **models,
            **base,
            "COMPOSE_FILE": compose_file,
            "COMPOSE_PROJECT_NAME": "pd-stack-benchmark",
            "STACK_DIR": str(self._folder),
            "STACK_VENV_DIR": str(self._users.venvs),
            "STACK_SERVICES": SERVICES,
            "ETCD_ENDPOINT": "",  # its own: the user's may know of other instances
            "PROXY_API_KEYS": "",  # who asks it here has none
            "PROXY_API_KEYS_FILE": "",
            **{name: str(next(self._ports)) for name in PORTS},
        }

    def instance_ports(self, variables: Mapping[str, str]) -> Sequence[int]:
        if self._users.stack_mode == "docker":
            return PORTS_IN_CONTAINERS
        replicas = {"PREFILL_PORT": self._users.prefill_replicas, "DECODE_PORT": self._users.decode_replicas}
        return [int(variables[name]) + index for name, number in replicas.items() for index in range(number)]

    @contextmanager
    def running(self, variables: Mapping[str, str], instances: int | None = None) -> Iterator[Target]:
        """Yields: the proxy, once it knows of so many instances; None: of all that the settings have.

        Raises: CannotStart: with the end of what `up` said.
        """
        wanted = self._users.prefill_replicas + self._users.decode_replicas if instances is None else instances
        self._call("down", variables, END_LIMIT_S)  # what a killed comparison left
        try:
            self._call("up", variables, self._users.stack_start_timeout_s + SET_UP_S)
            url = http_url(self._users.client_host, int(variables["PROXY_PORT"]))
            target = Target(url, wanted)
            target.check()
            yield target
        finally:
            with _undisturbed():
                self._call("down", variables, END_LIMIT_S)

    def _call(self, verb: str, variables: Mapping[str, str], limit_s: float) -> None:
        command = ("nice", "-n", str(NICENESS), str(self._python), "-m", "stack", verb)
        self._processes.start([Launch(f"stack-{verb}", command, dict(variables), REPOSITORY)])
        status = self._processes.wait(f"stack-{verb}", limit_s)
        if status != 0:
            raise CannotStart(
                f"`python -m stack {verb}` ended with status {status}; the end of what it said:\n"
                + self._processes.tail(f"stack-{verb}")
            )


def vllm_commands(ports: Container[int], since: float) -> list[list[str]]:
    """Command lines of the vLLM servers that listen on `ports`, ascending. `since`: Unix seconds; older are others'."""
    found = []
    for process in psutil.process_iter(["cmdline", "create_time"]):
        words = process.info["cmdline"] or []
        if VLLM in words and "--port" in words and process.info["create_time"] >= since:
            port = int(words[words.index("--port") + 1])
            if port in ports:
                found.append((port, words[words.index(VLLM) :]))
    return [words for _, words in sorted(found)]


def wait_for_instances(url: str, wanted: int, limit_s: float, check: Callable[[], None] = lambda: None) -> None:
    """The proxy is ready with the first pair; a comparison needs all. `check` is called meanwhile, and may raise.

    Raises: CannotStart.
    """
    limit = time.monotonic() + limit_s
    while time.monotonic() < limit:
        check()
        try:
            with urllib.request.urlopen(f"{url}/instances", timeout=5) as answer:
                known = len({each["url"] for each in json.load(answer)["instances"]})
        except (urllib.error.URLError, TimeoutError):
            known = 0
        if known >= wanted:
            return
        time.sleep(POLL_S)
    raise CannotStart(f"the proxy at {url} knows of {known} instances after {limit_s:g} s, not {wanted}")


@contextmanager
def _undisturbed() -> Iterator[None]:
    """An impatient second signal must not leave servers behind."""
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, signal.SIG_IGN) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
