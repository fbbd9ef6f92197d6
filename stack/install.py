"""Makes the Python environments from their locks, with uv; one that is already as its lock says is left alone.

Usage: python -m stack.install services|tests         (the services of `.env`, or all of them and the tests)
       python -m stack.install --print-folder NAME    (where an environment lies, made or not)
"""

import argparse
import hashlib
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from stack.configuration import env_file
from stack.configuration.environment import load_or_exit
from stack.configuration.settings import SERVICES, StackSettings
from stack.host.one_at_a_time import one_at_a_time
from stack.installation import package_sources, system_libraries
from stack.installation.environments import CPU_TORCH_MARK, LOCKED_PYTHON, NAMES, TESTS, Environment, needed_by

STAMP = "installed-from.sha256"


class InstallError(RuntimeError):
    """An environment could not be made; the text is one line that says which and what to look at."""


def is_current(environment: Environment, settings: StackSettings) -> bool:
    stamp = environment.folder(settings) / STAMP
    return stamp.exists() and stamp.read_text().strip() == _digest(environment.lock)


def install(environments: Sequence[Environment], settings: StackSettings) -> None:
    """Make those environments that are missing or out of date; says nothing when there is nothing to do.

    Raises: InstallError: with uv's own output above it on the terminal.
    """
    settings.venvs.mkdir(parents=True, exist_ok=True)
    with one_at_a_time(settings.venvs / ".lock"):
        outdated = [environment for environment in environments if not is_current(environment, settings)]
        for number, environment in enumerate(outdated, 1):
            title = f"[{number}/{len(outdated)}] environment {environment.name}"
            print(f"{title}: installing from {environment.lock.name}, about {environment.disk_mib} MiB", flush=True)
            started = time.monotonic()
            _install(environment, settings)
            print(f"{title}: ready after {time.monotonic() - started:.0f} s", flush=True)


def _install(environment: Environment, settings: StackSettings) -> None:
    folder = environment.folder(settings)
    variables = package_sources.for_uv()
    uv = [sys.executable, "-m", "uv"]
    # Hard links into uv's cache save the time and the space of a copy; they cannot cross file systems.
    variables.setdefault("UV_LINK_MODE", "hardlink" if _same_file_system(uv, variables, settings.venvs) else "copy")
    install = [*uv, "pip", "install", "--python", str(environment.python(settings)), "--require-hashes", "--no-deps"]
    if CPU_TORCH_MARK in environment.lock.read_text():
        install += package_sources.cpu_torch_arguments(variables)
    if not sys.stderr.isatty():
        install.append("--quiet")  # a progress bar is for a person; a log gets the errors
    (folder / STAMP).unlink(missing_ok=True)
    for command in (
        [*uv, "venv", "--quiet", "--clear", "--python", LOCKED_PYTHON, str(folder)],
        # --no-deps: the lock is complete, and leaves out on purpose what some packages ask for.
        [*install, "-r", str(environment.lock)],
    ):
        if subprocess.run(command, env=variables, check=False).returncode != 0:
            raise InstallError(
                f"environment {environment.name}: installing {environment.lock} failed; uv says why above"
            )
    (folder / STAMP).write_text(_digest(environment.lock) + "\n")


def _same_file_system(uv: list[str], variables: dict[str, str], folder: Path) -> bool:
    cache = subprocess.run([*uv, "cache", "dir"], env=variables, capture_output=True, text=True, check=True)
    existing = Path(cache.stdout.strip())
    while not existing.exists():
        existing = existing.parent
    return existing.stat().st_dev == folder.stat().st_dev


def _digest(lock: Path) -> str:
    return hashlib.sha256(lock.read_bytes()).hexdigest()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m stack.install", description="Makes the Python environments.")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("what", nargs="?", choices=["services", "tests"], help="services of .env, or all and the tests")
    what.add_argument("--print-folder", choices=NAMES, help="only say where this environment lies")
    arguments = parser.parse_args()
    env_file.apply_or_exit()
    settings = load_or_exit(StackSettings)
    if arguments.print_folder:
        print(settings.venvs / arguments.print_folder)
        return 0
    try:
        if arguments.what == "tests":
            system_libraries.install(system_libraries.FOR_TESTS)
            install([*needed_by(SERVICES, settings), TESTS], settings)
        else:
            system_libraries.install(system_libraries.for_processes(settings))
            install(needed_by(settings.stack_services, settings), settings)
    except (InstallError, system_libraries.MissingLibraryError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
