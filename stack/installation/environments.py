"""The Python environments of the repository: which lock makes which, and where they lie.

Both ways of running and the images install from the same locks.
`tools`, in which this very code runs, is made by bootstrap.sh before.
"""

from dataclasses import dataclass
from pathlib import Path

from stack.configuration.settings import REPOSITORY, StackSettings

LOCKED_PYTHON = "3.11"
CPU_TORCH_MARK = "+cpu"


@dataclass(frozen=True)
class Environment:
    """A virtual environment and the lock it is installed from; `disk_mib` is about its size."""

    name: str
    lock: Path
    disk_mib: int

    def folder(self, settings: StackSettings) -> Path:
        return settings.venvs / self.name

    def python(self, settings: StackSettings) -> Path:
        return self.folder(settings) / "bin" / "python"


VLLM_CPU = Environment("vllm", REPOSITORY / "images/vllm/requirements.cpu.lock", 2300)
VLLM_GPU = Environment("vllm", REPOSITORY / "images/vllm/requirements.gpu.lock", 9000)
PROXY = Environment("proxy", REPOSITORY / "images/proxy/requirements.lock", 40)
LOADTEST = Environment("loadtest", REPOSITORY / "images/loadtest/requirements.lock", 50)
TESTS = Environment("tests", REPOSITORY / "tests/requirements.lock", 250)

NAMES = ("tools", "vllm", "proxy", "loadtest", "tests")


def vllm(settings: StackSettings) -> Environment:
    """The GPU overlay chooses the CUDA builds in the processes-only way too."""
    return VLLM_GPU if settings.uses_gpu else VLLM_CPU


def needed_by(services: tuple[str, ...], settings: StackSettings) -> tuple[Environment, ...]:
    """The environments that these services run in."""
    chosen: list[Environment] = []
    if {"prefill", "decode"} & set(services):
        chosen.append(vllm(settings))
    if "proxy" in services:
        chosen.append(PROXY)
    if "loadtest" in services:
        chosen.append(LOADTEST)
    return tuple(chosen)
