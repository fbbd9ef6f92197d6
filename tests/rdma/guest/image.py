"""The guest's kernel and root image, built once for each version of what goes into them and kept under `.stack`.

What is kept is named after the build's scripts, the lock of the guest's Python packages (Mooncake among them) and, for
the saved state, QEMU's version and machine. The kernel lies beside the image it was built with.
"""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

from stack.host.one_at_a_time import one_at_a_time
from stack.installation import package_sources, system_libraries
from stack.installation.system_libraries import SystemPackage

HERE = Path(__file__).parent
LOCK = HERE.parent / "requirements.lock"
BUILD_LIMIT_S = 900
NEEDED = (
    SystemPackage("qemu-system-x86", "program", "qemu-system-x86_64", "runs the guest"),
    SystemPackage("debootstrap", "program", "debootstrap", "makes the guest's root"),
    SystemPackage("e2fsprogs", "program", "mke2fs", "makes the guest's disk"),
    SystemPackage("kmod", "program", "modprobe", "finds the modules that the guest loads"),
    SystemPackage("cpio", "program", "cpio", "packs the guest's initrd"),
    SystemPackage("util-linux", "program", "setpriv", "ends the guest with its test"),
)


class GuestError(RuntimeError):
    """The guest cannot be built or run here; one line says why."""


def prepare(cache: Path) -> Path:
    """The folder with the guest's image, which is built if it is not there.

    Raises: GuestError, MissingLibraryError.
    """
    if os.geteuid() != 0:
        raise GuestError("found an ordinary user; needed root, because debootstrap does; fix: sudo make test-rdma")
    if shutil.which("apt-get") is None:
        raise GuestError("found no apt-get; needed a Debian machine, whose mirror the guest is built from")
    system_libraries.install(NEEDED)
    folder = cache / _digest(LOCK, *sorted(HERE.glob("*.sh")))
    with one_at_a_time(cache / ".lock"):
        if not (folder / "versions").is_file():
            _build(folder)
    return folder


def _build(folder: Path) -> None:
    for outdated in folder.parent.iterdir():
        if outdated.is_dir():
            shutil.rmtree(outdated)
    packages = folder / "packages"
    packages.mkdir(parents=True)
    install = [sys.executable, "-m", "uv", "pip", "install", "--quiet", "--python-version", "3.11", "--no-deps"]
    install += ["--require-hashes", "--only-binary", ":all:", "--link-mode", "copy", "--target", str(packages)]
    for command in ([*install, "-r", str(LOCK)], ["bash", str(HERE / "build.sh"), str(folder), str(packages)]):
        try:
            subprocess.run(command, env=package_sources.for_uv(), check=True, timeout=BUILD_LIMIT_S)
        except subprocess.CalledProcessError as error:
            raise GuestError(f"building the guest failed, see above: `{' '.join(command)}`") from error
    shutil.rmtree(packages)


def _digest(*files: Path) -> str:
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:12]
