"""supervisord keeps the services alive: its configuration, and the few calls we make to it over its Unix socket.

Restarts, log rotation and the order of signals are supervisord's; nothing here watches a process.
"""

import os
import shlex
import subprocess
import sys
import time
import xmlrpc.client
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import psutil
from supervisor.xmlrpc import SupervisorTransport

from stack.configuration.settings import REPOSITORY
from stack.running.service import Service

# States of supervisord: http://supervisord.org/subprocess.html#process-states
DEAD = ("BACKOFF", "EXITED", "FATAL", "UNKNOWN")
IDLE = ("STOPPED", *DEAD)


@dataclass(frozen=True)
class ProcessState:
    """One supervised process as supervisord sees it; `pid` is 0 while it does not run."""

    name: str
    service: str
    state: str
    pid: int
    description: str


def configuration(services: Sequence[Service], folder: Path, logs: Path) -> str:
    """The text of supervisord.conf. `folder` holds its socket and pid file.

    Services get supervisord's own environment, so that no secret of it is written to disk.
    """
    sections = [
        _section(
            "supervisord",
            nodaemon="true",  # a fork of its own would undo supervisord.py; `setsid --fork` detaches it instead
            pidfile=folder / "supervisord.pid",
            logfile="/dev/null",  # it prints the same, as it stays in the foreground
            logfile_maxbytes=0,
            childlogdir=logs,
            directory=REPOSITORY,
            user=os.geteuid(),
        ),
        _section("unix_http_server", file=socket_of(folder), chmod="0600"),
        _section("supervisorctl", serverurl=f"unix://{socket_of(folder)}"),
        "[rpcinterface:supervisor]\nsupervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface\n",
        *(_program(service, logs) for service in services),
    ]
    return "\n".join(sections)


def _program(service: Service, logs: Path) -> str:
    # Should supervisord itself be killed, the kernel tells each service to end: nothing is left behind.
    command = ("setpriv", "--pdeathsig", "TERM", "--", *service.command)
    variables = {**service.environment, "INSTANCE_INDEX": "%(process_num)d"}
    return _section(
        f"program:{service.name}",
        command=_Literal(shlex.join(command).replace("%", "%%")),
        environment=_Literal(",".join(f'{name}="{value}"' for name, value in variables.items())),
        process_name=_Literal("%(program_name)s-%(process_num)d"),
        numprocs=service.replicas,
        directory=REPOSITORY,
        autostart="false",
        autorestart="true",
        startsecs=1,
        startretries=3,
        # TERM goes to the service alone, which ends its children in its own order; KILL goes to all of its group.
        stopsignal="TERM",
        stopasgroup="false",
        killasgroup="true",
        stopwaitsecs=int(service.grace_s),
        redirect_stderr="true",
        stdout_logfile=_Literal(f"{logs}/%(program_name)s-%(process_num)d.log"),
        stdout_logfile_maxbytes="10MB",
        stdout_logfile_backups=2,
    )


class _Literal(str):
    """A value that already holds supervisord's own %(…)s expressions."""


def _section(name: str, **options: object) -> str:
    lines = [
        f"{key} = {value if isinstance(value, _Literal) else str(value).replace('%', '%%')}"
        for key, value in options.items()
    ]
    return "\n".join([f"[{name}]", *lines, ""])


def socket_of(folder: Path) -> Path:
    return folder / "supervisor.sock"


class Supervisor:
    """supervisord of one run folder. Calls raise OSError or xmlrpc.client.Fault when it is gone or refuses."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.configuration_file = folder / "supervisord.conf"
        self.url = f"unix://{socket_of(folder)}"

    def start(self, environment: dict[str, str], output: Path) -> None:
        """Start supervisord as a daemon; returns once it answers.

        Raises: TimeoutError: it does not; `output` has what it printed.
        """
        supervisord = (sys.executable, "-m", "stack.running.supervisord", "-c", str(self.configuration_file))
        with output.open("wb") as file:
            subprocess.run(
                ["setsid", "--fork", *supervisord],
                cwd=REPOSITORY,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                check=True,
            )
        deadline = time.monotonic() + 30
        while not self.answers():
            if time.monotonic() > deadline:
                raise TimeoutError(f"supervisord does not answer 30 s after its start; it printed {output}")
            time.sleep(0.1)

    def answers(self) -> bool:
        try:
            return cast(dict[str, object], self._call("getState"))["statename"] == "RUNNING"
        except OSError:
            return False

    @property
    def pid(self) -> int:
        return cast(int, self._call("getPID"))

    def processes(self) -> list[ProcessState]:
        rows = cast(list[dict[str, object]], self._call("getAllProcessInfo"))
        return [
            ProcessState(
                name=str(row["name"]),
                service=str(row["group"]),
                state=str(row["statename"]),
                pid=cast(int, row["pid"]),
                description=str(row["description"]),
            )
            for row in rows
        ]

    def start_service(self, service: str) -> None:
        """Start those processes of a service that do not run."""
        self._call("startProcessGroup", service, False)

    def stop_service(self, service: str) -> None:
        self._call("stopProcessGroup", service, False)

    def shut_down(self) -> None:
        self._call("shutdown")

    def _call(self, method: str, *arguments: object) -> object:
        # A connection for each call: one that supervisord closed would fail the next call.
        with closing(SupervisorTransport(None, None, serverurl=self.url)) as transport:
            proxy = xmlrpc.client.ServerProxy("http://127.0.0.1", transport=transport)
            return cast(object, getattr(proxy.supervisor, method)(*arguments))

    def family(self) -> list[psutil.Process]:
        """supervisord's services and all that they started.

        When supervisord is no more, they are recognised by the variable that it gives to each of its children.
        """
        if self.answers():
            return psutil.Process(self.pid).children(recursive=True)
        return [process for process in psutil.process_iter() if _server_url(process) == self.url]


def _server_url(process: psutil.Process) -> str | None:
    try:
        return process.environ().get("SUPERVISOR_SERVER_URL")
    except (psutil.Error, OSError):  # ended meanwhile, or another user's
        return None
