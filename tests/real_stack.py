"""The processes-only stack as a user starts it, with state and ports of its own, and a plain vLLM server beside it."""

import json
import os
import re
import socket
import subprocess
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any, TypeVar

import psutil

from stack.configuration.settings import EMBEDDED_MODEL, REPOSITORY
from stack.running.supervision import Supervisor

MODEL = EMBEDDED_MODEL
# Small on purpose: prompts of 3,000 tokens fit, but a few long requests at once make vLLM preempt some.
KV_CACHE_BYTES = 160 << 20
MAX_MODEL_LEN = 3200
CHUNK_TOKENS = 512
BLOCK_TOKENS = 32
LEASE_TTL_S = 5
PATIENCE_S = 20
START_LIMIT_S = 600
TOOLS = "--enable-auto-tool-choice --tool-call-parser hermes"
# What a user's shell may hold for other programs: a way to the outside, on which nothing of the stack is found, and an
# implementation that today's protobuf does not have. Every stack of the tests starts and serves in such a shell.
FOREIGN_VARIABLES = {
    name: "http://127.0.0.1:9"
    for lower in ("http_proxy", "https_proxy", "all_proxy", "grpc_proxy")
    for name in (lower, lower.upper())
} | {"no_proxy": "", "NO_PROXY": "", "PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION": "cpp"}
_FIRST_TOKENS = re.compile(r'^pd_kv_first_tokens_total\{.*by="(\w+)",cause="([^"]*)".*\} (\S+)', re.MULTILINE)


def free_ports(count: int) -> list[int]:
    """Ports that are free now; below the range from which the kernel picks ports by itself."""
    sockets = []
    for port in range(21000 + os.getpid() % 5000, 32000):
        candidate = socket.socket()
        try:
            candidate.bind(("127.0.0.1", port))
        except OSError:
            candidate.close()
            continue
        sockets.append(candidate)
        if len(sockets) == count:
            break
    ports = [open_socket.getsockname()[1] for open_socket in sockets]
    for open_socket in sockets:
        open_socket.close()
    return ports


@dataclass
class RealStack:
    """`make up` and `make down` with everything that could meet another stack of this machine moved aside."""

    folder: Path
    variables: dict[str, str] = field(init=False)

    def __post_init__(self) -> None:
        proxy, locust, etcd, prefill, decode, control = free_ports(6)
        self.api_url = f"http://127.0.0.1:{proxy}"
        self.locust_url = f"http://127.0.0.1:{locust}"
        self.prefill_url = f"http://127.0.0.1:{prefill}"
        self.decode_url = f"http://127.0.0.1:{decode}"
        # While this file exists the producer claims its writes and moves nothing (connector/mooncake/engine.py).
        self.drop_writes = self.folder / "drop-writes"
        self.etcd_url = f"http://127.0.0.1:{etcd}"
        self.supervisor = Supervisor(self.folder / "run")
        self.variables = {
            "STACK_MODE": "processes",
            "STACK_ENV_FILE": "/dev/null",
            "STACK_DIR": str(self.folder),
            "STACK_VENV_DIR": str(REPOSITORY / ".stack" / "venv"),
            "MODEL_DIR": str(REPOSITORY / ".stack" / "models"),
            "PROXY_PORT": str(proxy),
            "LOCUST_PORT": str(locust),
            "ETCD_PORT": str(etcd),
            "PREFILL_PORT": str(prefill),
            "DECODE_PORT": str(decode),
            "CONTROL_PORT": str(control),
            "DTYPE": "float32",  # in which greedy text does not depend on how requests are batched
            "BLOCK_SIZE": str(BLOCK_TOKENS),
            "KV_CACHE_BYTES": str(KV_CACHE_BYTES),
            "MAX_MODEL_LEN": str(MAX_MODEL_LEN),
            "MAX_NUM_BATCHED_TOKENS": str(CHUNK_TOKENS),
            # The first lets a prompt start before all of it has room, so that a producer can be made to preempt.
            "VLLM_EXTRA_ARGS": f"--no-scheduler-reserve-full-isl {TOOLS}",
            "LEASE_TTL_S": str(LEASE_TTL_S),
            "TRANSFER_PATIENCE_S": str(PATIENCE_S),
            "CONNECTOR_DROP_WRITES_FILE": str(self.drop_writes),
            "PROXY_LOCAL_PROMPT_TOKENS": "0",  # short prompts too come from the producer
        }

    def make(self, target: str, **variables: str) -> "subprocess.CompletedProcess[str]":
        """Run a target of the Makefile for this stack; its output is kept for the test's report."""
        return subprocess.run(
            ["make", "--no-print-directory", target],
            cwd=REPOSITORY,
            env={**os.environ, **FOREIGN_VARIABLES, **self.variables, **variables},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=START_LIMIT_S,
            check=False,
        )

    @property
    def pids(self) -> dict[str, int]:
        """Process id of each service, by name."""
        return {process.service: process.pid for process in self.supervisor.processes()}

    @cached_property
    def english(self) -> list[int]:
        """Tokens of a long text that comes with Python: its language reference."""
        text = "\n".join(topics[name] for name in sorted(topics))[:400_000]
        return list(post(self.prefill_url + "/tokenize", {"model": MODEL, "prompt": text})["tokens"])

    def vllm_server(self, service: str) -> psutil.Process:
        """The vLLM process that the launcher of `service` started."""
        (server,) = psutil.Process(self.pids[service]).children()
        return server

    def logs(self) -> str:
        files = sorted((self.folder / "logs").glob("*.log"))
        return "\n".join(f"=== {file.name}\n{_tail(file)}" for file in files)


Stack = TypeVar("Stack", bound=RealStack)


@contextmanager
def running(stack: Stack) -> Iterator[Stack]:
    """Started and ended; what it printed and logged is in the report when it does not start."""
    up = stack.make("up")
    try:
        assert up.returncode == 0, f"make up failed:\n{up.stdout}\n{up.stderr}\n{stack.logs()}"
        yield stack
    finally:
        down = stack.make("down")
        assert down.returncode == 0, f"make down failed:\n{down.stdout}\n{down.stderr}"


@dataclass
class PlainVllm:
    """One vLLM server without a connector, of the same model, type and chunk size: what answers are compared with."""

    folder: Path
    url: str = field(init=False)

    def __post_init__(self) -> None:
        (self._port,) = free_ports(1)
        self.url = f"http://127.0.0.1:{self._port}"
        self._log = self.folder / "plain.log"

    def start(self) -> "subprocess.Popen[bytes]":
        command = [
            *(str(REPOSITORY / ".stack/venv/vllm/bin/python"), "-m", "vllm.entrypoints.launchers.api_server.entry"),
            *("--host", "127.0.0.1", "--port", str(self._port)),
            *("--model", str(REPOSITORY / ".stack/models" / MODEL), "--served-model-name", MODEL),
            *("--dtype", "float32", "--block-size", str(BLOCK_TOKENS), "--max-model-len", str(MAX_MODEL_LEN)),
            *("--max-num-batched-tokens", str(CHUNK_TOKENS), "--kv-cache-memory-bytes", str(512 << 20)),
            *("--enforce-eager", "--distributed-executor-backend", "uni"),
            *("--enable-prompt-tokens-details", *TOOLS.split()),
        ]
        variables = {
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
            "OMP_NUM_THREADS": "1",
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        }
        with self._log.open("wb") as log:
            return subprocess.Popen(
                command,
                env={**os.environ, **variables, "VLLM_NO_USAGE_STATS": "1"},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def wait(self, process: "subprocess.Popen[bytes]") -> None:
        deadline = time.monotonic() + START_LIMIT_S
        while not answers(self.url + "/health"):
            assert process.poll() is None, f"the plain vLLM server ended:\n{_tail(self._log)}"
            assert time.monotonic() < deadline, f"the plain vLLM server is not up:\n{_tail(self._log)}"
            time.sleep(1)


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as response:
            return bool(response.status == 200)
    except OSError:
        return False


def metrics(instance_url: str, engine: int | None = None) -> dict[str, float]:
    """Prometheus counters and gauges of a vLLM instance, or of one of its engines, summed over their labels."""
    with urllib.request.urlopen(instance_url + "/metrics", timeout=10) as response:
        text = response.read().decode()
    values: dict[str, float] = {}
    for line in text.splitlines():
        if line and not line.startswith("#") and (engine is None or f'engine="{engine}"' in line):
            name, _, value = line.rpartition(" ")
            name = name.partition("{")[0]
            values[name] = values.get(name, 0.0) + float(value)
    return values


def first_tokens(consumer_url: str) -> Counter[tuple[str, str]]:
    """Of transferred prompts: who computed them (producer or consumer), and why the consumer did."""
    with urllib.request.urlopen(consumer_url + "/metrics", timeout=10) as response:
        found = _FIRST_TOKENS.findall(response.read().decode())
    return Counter({(by, cause): int(float(value)) for by, cause, value in found if float(value)})


def post(url: str, body: dict[str, Any], timeout: float = 120) -> dict[str, Any]:
    """The JSON answer to a JSON request; an HTTP error is raised."""
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=timeout) as response:
        answer = json.load(response)
    assert isinstance(answer, dict)
    return answer


def wait_until(condition: Any, limit_s: float, what: str) -> None:
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {limit_s:g} s: {what}"
        time.sleep(0.2)


def _tail(file: Path, lines: int = 60) -> str:
    text: Sequence[str] = file.read_text(errors="replace").splitlines()
    return "\n".join(text[-lines:])
