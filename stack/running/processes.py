"""The processes-only way: starts, shows and stops the services as processes of this machine.

What belongs to one run lies in STACK_DIR/run, STACK_DIR/etcd and STACK_DIR/store and goes away with `down`; logs,
environments and the model stay.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import time
import xmlrpc.client
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import psutil

from stack import health
from stack.configuration import env_file
from stack.configuration.settings import REPOSITORY, StackSettings
from stack.etcd.protobuf_choice import PROTOBUF_CHOICE
from stack.installation import environments
from stack.running.progress import Progress
from stack.running.service import Service
from stack.running.services import services, shared_environment
from stack.running.supervision import DEAD, IDLE, ProcessState, Supervisor, configuration

LOG_LINES_OF_A_DEATH = 30
POLL_S = 0.5


class StartError(RuntimeError):
    """The stack did not come up; the text says which service and why."""


class Processes:
    """The services of one STACK_DIR."""

    def __init__(self, settings: StackSettings) -> None:
        self.settings = settings
        self.run = settings.stack_dir / "run"
        self.logs = settings.stack_dir / "logs"
        self.supervisor = Supervisor(self.run)

    def is_up(self) -> bool:
        return self.supervisor.answers()

    def has_run(self) -> bool:
        """Whether there is something to take down: also when supervisord was killed."""
        return self.run.exists()

    def prepare(self) -> None:
        """Model and key, in the environment of vLLM. Raises: StartError."""
        if not {"prefill", "decode"} & set(self.settings.stack_services):
            return
        command = [str(environments.vllm(self.settings).python(self.settings)), "-m", "stack.prepare"]
        result = subprocess.run(command, cwd=REPOSITORY, env=self._environment(), stdin=subprocess.DEVNULL, check=False)
        if result.returncode != 0:
            raise StartError(f"prepare: ended with status {result.returncode}; see above")

    def up(self) -> None:
        """Start what does not run yet and wait until all of it is healthy.

        Raises: StartError: a service died or took too long. What this call started is stopped again then.
        """
        found = self.is_up()
        chosen = services(self.settings)
        if found:
            self._report_changes(chosen)
        else:
            self._clear(self.supervisor.family())
            self._start_supervisor(chosen)
        try:
            self._start_in_order(chosen)
        except BaseException:
            if not found:
                self.down()
            raise

    def down(self) -> None:
        """Stop every service, and end what is left of them; harmless where nothing runs."""
        remains = self.supervisor.family()
        if self.is_up():
            self._stop_services()
            remains = self.supervisor.family()
            pid = self.supervisor.pid
            self.supervisor.shut_down()
            _wait(lambda: not psutil.pid_exists(pid), 30)
        self._clear(remains)

    def status(self) -> list[tuple[str, ...]]:
        """Rows of name, state, health, pid, memory, URL; the header first."""
        rows: list[tuple[str, ...]] = [("NAME", "STATE", "HEALTH", "PID", "MEMORY", "URL")]
        states = {process.name: process for process in self.supervisor.processes()}
        for service in services(self.settings):
            for index in range(service.replicas):
                process = states.get(service.process(index))
                if process is not None:
                    rows.append(_row(service, index, process))
        return rows

    def log_files(self, wanted: Sequence[str]) -> list[Path]:
        """Log files of the services in `wanted`, or of all."""
        files = sorted(self.logs.glob("*-*.log"))
        return [file for file in files if not wanted or file.name.rsplit("-", 1)[0] in wanted]

    # Starting

    def _environment(self) -> dict[str, str]:
        inherited = {name: value for name, value in os.environ.items() if name != PROTOBUF_CHOICE}
        return {**inherited, **shared_environment(self.settings)}

    def _start_supervisor(self, chosen: Sequence[Service]) -> None:
        self.logs.mkdir(parents=True, exist_ok=True)
        self.run.mkdir(mode=0o700)
        if self.settings.has_store and self.settings.store_disk is not None:
            self.settings.store_disk.mkdir(mode=0o700)
        for old in self.logs.glob("*.log*"):
            old.unlink()
        self.supervisor.configuration_file.write_text(configuration(chosen, self.run, self.logs))
        self._fingerprint_file.write_text(self._fingerprint(chosen))
        self.supervisor.start(self._environment(), self.logs / "supervisord.log")

    def _start_in_order(self, chosen: Sequence[Service]) -> None:
        """etcd first: Mooncake's engine needs it in order to start; the others find each other through it."""
        progress = Progress(self.settings.stack_start_timeout_s)
        for stage in ([s for s in chosen if s.name == "etcd"], [s for s in chosen if s.name != "etcd"]):
            for service in stage:
                if any(p.state in IDLE for p in self.supervisor.processes() if p.service == service.name):
                    self.supervisor.start_service(service.name)
            self._wait_until_healthy(stage, progress)
        proxy = next((service for service in chosen if service.name == "proxy"), None)
        instances = {"prefill", "decode"} & {service.name for service in chosen}
        if proxy is not None and len(instances) >= (1 if self.settings.is_baseline else 2):
            seen = "an aggregated instance" if self.settings.is_baseline else "prefill and decode"
            self._wait_for({f"proxy sees {seen}": proxy.url(0) + "/ready"}, progress)

    def _wait_until_healthy(self, stage: Sequence[Service], progress: Progress) -> None:
        self._wait_for({s.process(i): s.health_url(i) for s in stage for i in range(s.replicas)}, progress)

    def _wait_for(self, waiting: dict[str, str], progress: Progress) -> None:
        """Until every URL of `waiting` (what is waited for -> URL) has answered once."""
        first_pids = {process.name: process.pid for process in self._states()}
        waiting = dict(waiting)
        while True:
            self._raise_for_the_dead(first_pids, progress)
            for name in [name for name, url in waiting.items() if health.answers(url)]:
                del waiting[name]
                progress.done(name)
            # supervisord calls a process started only after its first second.
            if not waiting and not any(process.state == "STARTING" for process in self._states()):
                return
            if progress.is_over():
                raise StartError(
                    f"not ready after {progress.limit_s:.0f} s (STACK_START_TIMEOUT_S): {', '.join(waiting)}; "
                    f"logs are in {self.logs}"
                )
            progress.waiting(waiting)
            time.sleep(POLL_S)

    def _states(self) -> list[ProcessState]:
        try:
            return self.supervisor.processes()
        except (OSError, xmlrpc.client.Fault) as error:
            raise StartError("the supervisor is gone: was the stack taken down while it started?") from error

    def _raise_for_the_dead(self, first_pids: dict[str, int], progress: Progress) -> None:
        """A process that ended, or that was started anew because it had ended."""
        for process in self._states():
            first = first_pids.get(process.name) or process.pid
            first_pids[process.name] = first
            if process.state in DEAD or (process.pid and process.pid != first):
                progress.clear()
                print(f"--- the last lines of {process.name}:", file=sys.stderr)
                lines = (self.logs / f"{process.name}.log").read_text(errors="replace").splitlines()
                print("\n".join(lines[-LOG_LINES_OF_A_DEATH:]), file=sys.stderr)
                raise StartError(
                    f"{process.name}: died while starting; its whole log is {self.logs}/{process.name}.log"
                )

    # A second `up`

    @property
    def _fingerprint_file(self) -> Path:
        return self.run / "started-with.sha256"

    def _fingerprint(self, chosen: Sequence[Service]) -> str:
        values = {name: os.environ.get(name) for name in sorted(env_file.known_names())}
        shown = (configuration(chosen, self.run, self.logs), values)
        return hashlib.sha256(repr(shown).encode()).hexdigest()

    def _report_changes(self, chosen: Sequence[Service]) -> None:
        if self._fingerprint_file.read_text() == self._fingerprint(chosen):
            print("already running")
        else:
            print("already running, with other settings than .env has now: `make down` and `make up` apply them")

    # Stopping

    def _stop_services(self) -> None:
        """All but etcd at once, as each has its own grace period; etcd last, because the instances sign off there."""
        running = {process.service for process in self.supervisor.processes() if process.state not in IDLE}
        self._stop(running - {"etcd"})
        self._stop(running & {"etcd"})

    def _stop(self, names: set[str]) -> None:
        for name in sorted(names):
            print(f"stopping {name}", flush=True)
            self.supervisor.stop_service(name)

        def have_stopped() -> bool:
            return all(process.state in IDLE for process in self.supervisor.processes() if process.service in names)

        _wait(have_stopped, self.settings.shutdown_grace_s + 60)

    def _clear(self, remains: Sequence[psutil.Process]) -> None:
        """End processes that outlived their service, and remove the run's files."""
        _, remains = psutil.wait_procs(remains, timeout=1)
        for process in remains:
            with suppress(psutil.NoSuchProcess):
                print(f"ending {process.name()} (pid {process.pid}), which outlived its service", flush=True)
                process.terminate()
        _, alive = psutil.wait_procs(remains, timeout=10)
        for process in alive:
            process.kill()
        psutil.wait_procs(alive, timeout=10)
        for folder in (self.run, *(self.settings.stack_dir / name for name in ("etcd", "store"))):
            shutil.rmtree(folder, ignore_errors=True)


def _wait(condition: Callable[[], bool], limit_s: float) -> None:
    deadline = time.monotonic() + limit_s
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.1)


def _row(service: Service, index: int, process: ProcessState) -> tuple[str, ...]:
    well = "healthy" if process.pid and health.answers(service.health_url(index)) else "-"
    memory = f"{_memory_mib(process.pid)} MiB" if process.pid else "-"
    return (process.name, process.state, well, str(process.pid or "-"), memory, service.url(index))


def _memory_mib(pid: int) -> int:
    """Of a process and its descendants; pages they share count once for each."""
    total = 0
    try:
        parent = psutil.Process(pid)
        for process in (parent, *parent.children(recursive=True)):
            total += process.memory_info().rss
    except psutil.NoSuchProcess:  # ended meanwhile
        pass
    return total >> 20
