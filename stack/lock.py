"""Writes every lock file anew from the `.in` file beside it: exact versions with hashes. Run as `make lock`.

`requirements.X.excludes` beside an input names packages to leave out although others ask for them.
"""

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from stack.configuration.settings import REPOSITORY
from stack.installation import package_sources
from stack.installation.environments import CPU_TORCH_MARK, LOCKED_PYTHON


def locks() -> list[Path]:
    """Every lock, in the order of compilation: the tests' inputs are constrained by the locks before them."""
    inputs = [
        "stack/requirements.in",
        "images/*/requirements*.in",
        "tests/requirements.in",
        "tests/k8s/requirements.in",
        "tests/k8s/chart/requirements.in",
        "tests/rdma/requirements.in",
    ]
    return [source.with_suffix(".lock") for pattern in inputs for source in sorted(REPOSITORY.glob(pattern))]


def compile_command(lock: Path) -> list[str]:
    """uv's command for one lock, to be run in the lock's folder, so that the lock names no folder of this machine."""
    command = [sys.executable, "-m", "uv", "pip", "compile", "--quiet", "--upgrade", "--generate-hashes", "--no-header"]
    command += ["--python-version", LOCKED_PYTHON]
    excludes = lock.with_suffix(".excludes")
    if excludes.exists():
        command += ["--excludes", excludes.name]
    return [*command, lock.with_suffix(".in").name, "-o", lock.name]


def lock_one(lock: Path, variables: Mapping[str, str]) -> int:
    """Returns: uv's exit status."""
    command = compile_command(lock)
    if CPU_TORCH_MARK in lock.with_suffix(".in").read_text():
        command += package_sources.cpu_torch_arguments(variables)
    else:
        # A local folder's `+cpu` build would win over PyPI's build for GPUs of the same version.
        variables = {name: value for name, value in variables.items() if name != "UV_FIND_LINKS"}
    print(f"locking {lock.relative_to(REPOSITORY)}", flush=True)
    return subprocess.run(command, cwd=lock.parent, env=variables, check=False).returncode


def main() -> int:
    variables = package_sources.for_uv()
    return next((status for lock in locks() if (status := lock_one(lock, variables)) != 0), 0)


if __name__ == "__main__":
    sys.exit(main())
