"""What the processes and the tests need from the system, beside Python: how to see it, how to get it.

Installed with apt where we may (root on a machine that has apt); otherwise one line says what to install.
"""

import ctypes
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from stack.configuration.settings import StackSettings

# Debian's packages start their services when they are installed, unless this says no: invoke-rc.d(8).
POLICY = Path("/usr/sbin/policy-rc.d")
NO_SERVICE = "#!/bin/sh\nexit 101\n"


class MissingLibraryError(RuntimeError):
    """Something from the system is missing and could not be installed; the text is one line that says how to get it."""


@dataclass(frozen=True)
class SystemPackage:
    """One Debian package and the file it is recognised by: a shared library's name or a program's."""

    package: str
    kind: Literal["library", "program"]
    provides: str
    purpose: str

    def present(self) -> bool:
        if self.kind == "program":
            return shutil.which(self.provides) is not None
        try:
            ctypes.CDLL(self.provides)
        except OSError:
            return False
        return True


FOR_PROCESSES = (
    SystemPackage("libibverbs1", "library", "libibverbs.so.1", "Mooncake's engine links it even for TCP"),
    SystemPackage("libnuma1", "library", "libnuma.so.1", "Mooncake's engine and vLLM's CPU kernels"),
    SystemPackage("libcurl4", "library", "libcurl.so.4", "Mooncake's engine"),
    SystemPackage("util-linux", "program", "setpriv", "ends a service when its supervisor dies"),
)
PROMETHEUS = SystemPackage("prometheus", "program", "prometheus", "compose.observability.yaml without Docker")
FOR_TESTS = (
    *FOR_PROCESSES,
    PROMETHEUS,
    SystemPackage("chromium", "program", "chromium", "the browser tests"),
    SystemPackage("chromium-driver", "program", "chromedriver", "the browser tests"),
)


def for_processes(settings: StackSettings) -> tuple[SystemPackage, ...]:
    """What the services of these settings need."""
    return (*FOR_PROCESSES, PROMETHEUS) if settings.is_observed else FOR_PROCESSES


def missing(packages: Sequence[SystemPackage]) -> tuple[SystemPackage, ...]:
    return tuple(package for package in packages if not package.present())


def apt_may_install() -> bool:
    return os.geteuid() == 0 and shutil.which("apt-get") is not None


def install_line(packages: Sequence[SystemPackage]) -> str:
    """The command a person has to run."""
    return "sudo apt-get install --no-install-recommends " + " ".join(package.package for package in packages)


def install(packages: Sequence[SystemPackage]) -> None:
    """Install those of `packages` that are missing.

    Raises: MissingLibraryError: where apt may not be used or has failed.
    """
    absent = missing(packages)
    if not absent:
        return
    names = [package.package for package in absent]
    if not apt_may_install():
        raise MissingLibraryError(f"missing from the system: {', '.join(names)}; install with: {install_line(absent)}")
    print(f"installing system packages: {' '.join(names)}", flush=True)
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    apt = ["apt-get", "-qq", "-o", "Dpkg::Use-Pty=0", "-o", "DPkg::Lock::Timeout=300"]
    with _no_service_starts():
        for command in ([*apt, "update"], [*apt, "install", "-y", "--no-install-recommends", *names]):
            if subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, check=False).returncode != 0:
                raise MissingLibraryError(f"`{' '.join(command)}` failed; install by hand: {install_line(absent)}")


@contextmanager
def _no_service_starts() -> Iterator[None]:
    """A machine's own policy stays as it is."""
    if POLICY.exists():
        yield
        return
    POLICY.write_text(NO_SERVICE)
    POLICY.chmod(0o755)
    try:
        yield
    finally:
        POLICY.unlink()
