"""The stack as processes of this machine, as seen through its supervisor."""

import subprocess
import urllib.request
from pathlib import Path

import psutil

from benchmarks.soak.stack import Member, Unreachable
from stack.configuration.settings import StackSettings
from stack.running.processes import Processes

ANSWER_LIMIT_S = 10.0  # a busy vLLM on a CPU takes seconds to say how it is
END_LIMIT_S = 60.0


class StackOfProcesses:
    def __init__(self, settings: StackSettings) -> None:
        self._processes = Processes(settings)

    def is_up(self) -> bool:
        return self._processes.is_up()

    def members(self) -> list[Member]:
        try:
            states = self._processes.supervisor.processes()
        except OSError as error:
            raise Unreachable(f"supervisord: {error}") from error
        return [Member(state.name, str(state.pid), tree_memory(state.pid)) for state in states if state.pid]

    def read(self, url: str) -> str:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(url, timeout=ANSWER_LIMIT_S) as answer:
                text: str = answer.read().decode()
        except OSError as error:
            raise Unreachable(f"{url}: {error}") from error
        return text

    def run_folder(self, wanted: Path) -> str:
        return str(wanted)

    def fetch(self, wanted: Path) -> None:
        """The load has written there."""

    def end_load(self, load: "subprocess.Popen[bytes]") -> None:
        family = [psutil.Process(load.pid), *psutil.Process(load.pid).children(recursive=True)]
        for process in family:
            process.terminate()  # Locust then writes its report
        _, alive = psutil.wait_procs(family, timeout=END_LIMIT_S)
        for process in alive:
            process.kill()
        load.wait()


def tree_memory(pid: int) -> int:
    """Bytes of a process with all its children: PSS, where a page that n processes share counts for each by its nth.

    0 when it has ended.
    """
    try:
        root = psutil.Process(pid)
        return sum(_pss(process) for process in (root, *root.children(recursive=True)))
    except psutil.NoSuchProcess:
        return 0


def _pss(process: psutil.Process) -> int:
    try:
        return int(process.memory_full_info().pss)
    except psutil.NoSuchProcess:  # a child that has ended meanwhile
        return 0
