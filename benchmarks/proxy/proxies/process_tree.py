"""CPU time and memory of a process with all its children."""

import psutil


class ProcessTree:
    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._root = psutil.Process(pid)

    def cpu_s(self) -> float:
        times = [process.cpu_times() for process in self._all()]
        return float(sum(time.user + time.system for time in times))

    def rss_mb(self) -> float:
        """Shared pages count once for each process that has them."""
        return float(sum(process.memory_info().rss for process in self._all()) / 1e6)

    def _all(self) -> list[psutil.Process]:
        return [self._root, *self._root.children(recursive=True)]
