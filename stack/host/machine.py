"""What a run ran on: hardware, versions, commit. Nothing that names the machine."""

import os
import platform
import re
import shutil
import subprocess
from importlib import metadata
from pathlib import Path

from stack.configuration.settings import REPOSITORY
from stack.host import cgroup

LEFT_BY_CGROUP = "of which a control group (cgroup) leaves this process"
GIB = 1 << 30


def hardware() -> dict[str, str]:
    model = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    memory = re.search(r"MemTotal:\s+(\d+) kB", Path("/proc/meminfo").read_text())
    limits = cgroup.limits()
    cpus = len(os.sched_getaffinity(0))
    facts = {
        "CPU": f"{cpus} × {model[1] if model else platform.machine()}",
        "memory": f"{(int(memory[1]) << 10) / GIB:.0f} GiB" if memory else "unknown",
        "load average at the start": f"{os.getloadavg()[0]:.1f}",
    }
    # The whole machine as well: in Docker the servers have limits of their own, which this process does not see.
    if limits.cpus < cpus:
        facts["CPU"] += f", {LEFT_BY_CGROUP} {limits.cpus:.3g}"
    if memory and limits.memory < int(memory[1]) << 10:
        facts["memory"] += f", {LEFT_BY_CGROUP} {limits.memory / GIB:.3g} GiB"
    if gpus := _output("nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"):
        names = gpus.splitlines()
        facts["GPU"] = f"{len(names)} × {names[0]}"
        # CUDA's Multi-Process Service gives a process this share of a GPU's multiprocessors: a run is no longer one of
        # whole GPUs. The variable counts in every process that inherits it.
        if share := os.environ.get("CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"):
            facts["GPU"] += f"; of its multiprocessors {share} % for each process (CUDA MPS)"
    return facts


def versions(commit: str, distributions: re.Pattern[str]) -> dict[str, str]:
    """Of the code and of packages whose whole name matches, in the environment that runs both the code and the servers.

    `commit`: for a copy without git.
    """
    found: dict[str, str] = {}
    for distribution in metadata.distributions():  # the first of a name is the one that is imported
        if distribution.name and distributions.fullmatch(distribution.name):
            found.setdefault(distribution.name, distribution.version)
    commit = commit or _output("git", "-C", str(REPOSITORY), "rev-parse", "HEAD")
    changed = _output("git", "-C", str(REPOSITORY), "status", "--porcelain", "--untracked-files=no")
    return {
        "commit": f"{commit}{' with changes' if changed else ''}" if commit else "unknown",
        "Linux": platform.release(),
        "Python": platform.python_version(),
        **dict(sorted(found.items())),
    }


def _output(*command: str) -> str:
    """Standard output; empty when the program is missing or fails."""
    if shutil.which(command[0]) is None:
        return ""
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    return result.stdout.strip() if result.returncode == 0 else ""
