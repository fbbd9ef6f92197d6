"""The side with vLLM's own Mooncake connector in place of ours, behind vllm-router, which speaks its protocol.

The servers are the baseline's, with the command line of aggregated ones and that connector beyond it. etcd and our
proxy run beside them, only because vllm-router cannot count tokens; no request under measurement passes them.
"""

import json
import shlex
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks import upstream_connector
from benchmarks.errors import CannotStart
from benchmarks.processes import POLL_S, Launch, Processes
from benchmarks.whole_stack.stack_side import NICENESS, StackSide, Target, wait_for_instances
from stack.configuration.environment import load
from stack.configuration.settings import REPOSITORY, StackSettings
from stack.running.service import Service
from stack.running.services import instances, shared_environment

ROLES = {"prefill": "producer", "decode": "consumer"}
ROUTER = "vllm-router"
ROUTER_LIMIT_S = 60.0


@dataclass(frozen=True)
class Server:
    """One vLLM server: which replica of which service it stands for, and the port where a producer tells of itself."""

    service: Service
    index: int
    bootstrap_port: int

    @property
    def name(self) -> str:
        return f"upstream-{self.service.process(self.index)}"

    @property
    def words_for_router(self) -> list[str]:
        words = [f"--{self.service.name}", self.service.url(self.index)]
        return [*words, str(self.bootstrap_port)] if self.service.name == "prefill" else words

    def launch(self, settings: StackSettings, variables: Mapping[str, str]) -> Launch:
        """Raises: CannotStart: MOONCAKE_PROTOCOL is none that this connector can be told to use."""
        transport = variables.get("MOONCAKE_PROTOCOL") or "tcp"
        if transport not in upstream_connector.TRANSPORTS:
            expected = ", ".join(upstream_connector.TRANSPORTS)
            raise CannotStart(f"MOONCAKE_PROTOCOL={transport!r}: for vLLM's own connector expected one of {expected}")
        role = ROLES[self.service.name]
        config = upstream_connector.kv_transfer_config(self.name, role, transport, on_gpu=settings.uses_gpu)
        extra = [*shlex.split(variables.get("VLLM_EXTRA_ARGS", "")), "--kv-transfer-config", json.dumps(config)]
        environment = {
            **variables,
            **shared_environment(settings),
            **self.service.environment,
            **upstream_connector.TRANSPORTS[transport],
            "INSTANCE_INDEX": str(self.index),
            upstream_connector.BOOTSTRAP_PORT: str(self.bootstrap_port),
            "VLLM_EXTRA_ARGS": shlex.join(extra),
        }
        return Launch(self.name, ("nice", "-n", str(NICENESS), *self.service.command), environment, REPOSITORY)


class UpstreamSide:
    """`stack` runs what is not vLLM; `ports`: free ones, for the router and the producers' bootstrap servers."""

    def __init__(self, stack: StackSide, router: Path, ports: Iterator[int], processes: Processes) -> None:
        self._stack, self._router, self._ports, self._processes = stack, router, ports, processes

    @contextmanager
    def running(self, variables: Mapping[str, str]) -> Iterator[Target]:
        """Yields: the router, once it answers. Raises: CannotStart."""
        settings = load(StackSettings, **{name.lower(): value for name, value in variables.items() if value})
        servers = [
            Server(service, index, next(self._ports))
            for service in instances(settings)
            for index in range(service.replicas)
        ]
        started: list[str] = []
        with self._stack.running({**variables, "STACK_SERVICES": "etcd,proxy"}, instances=0) as target:
            try:
                for server in servers:
                    self._processes.start([server.launch(settings, variables)])
                    started.append(server.name)
                wait_for_instances(target.url, len(servers), settings.stack_start_timeout_s, self._processes.check)
                port = next(self._ports)
                self._processes.start([self._launch_router(port, servers, variables)])
                started.append(ROUTER)
                self._wait_for_router(port)
                yield Target(f"http://127.0.0.1:{port}", len(servers), tokenizer=target.url)
            finally:
                self._processes.end(started)

    def _launch_router(self, port: int, servers: Sequence[Server], variables: Mapping[str, str]) -> Launch:
        words = [str(self._router), "--host", "127.0.0.1", "--port", str(port), "--prometheus-port", str(port + 1)]
        words += ["--vllm-pd-disaggregation", "--kv-connector", "mooncake"]
        for server in servers:
            words += server.words_for_router
        return Launch(ROUTER, ("nice", "-n", str(NICENESS), *words), dict(variables), REPOSITORY)

    def _wait_for_router(self, port: int) -> None:
        limit = time.monotonic() + ROUTER_LIMIT_S
        while time.monotonic() < limit:
            self._processes.check()
            with socket.socket() as probe:
                probe.settimeout(POLL_S)
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    return
            time.sleep(POLL_S)
        log = self._processes.tail(ROUTER)
        raise CannotStart(f"{ROUTER} does not listen after {ROUTER_LIMIT_S:g} s; the end of its log:\n{log}")
