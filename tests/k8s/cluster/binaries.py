"""The programs of the cluster: servers built from Debian's sources, with kubectl and helm beside them.

Built once for each version of what goes into them, and kept under `.stack`. A cold build takes three to seven minutes
on two cores, and 2 GiB of disk while it runs.
"""

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

from stack.host.one_at_a_time import one_at_a_time
from stack.installation import system_libraries
from stack.installation.system_libraries import SystemPackage
from tests.k8s import packages

BUILD = Path(__file__).with_name("build.sh")
VERSION = "1.20.2"
BUILD_LIMIT_S = 1800
NEEDED = (
    SystemPackage("docker.io", "program", "dockerd", "each node's container engine"),
    SystemPackage("iptables", "program", "iptables", "kube-proxy's rules"),
    SystemPackage("conntrack", "program", "conntrack", "kube-proxy"),
    SystemPackage("dnsmasq-base", "program", "dnsmasq", "the names of Services"),
    SystemPackage("iproute2", "program", "ip", "the nodes' network"),
    SystemPackage("util-linux", "program", "unshare", "the nodes' namespaces"),
    SystemPackage("openssl", "program", "openssl", "the key of service accounts"),
    SystemPackage("dpkg-dev", "program", "dpkg-source", "unpacks the sources"),
    SystemPackage("build-essential", "program", "cc", "compiles the container that holds a pod's network"),
)


class ClusterError(RuntimeError):
    """The cluster cannot be built or run here; one line says why."""


def prepare(cache: Path) -> Path:
    """The folder of programs, which is made if it is not there.

    Raises: ClusterError, MissingLibraryError.
    """
    if os.geteuid() != 0:
        raise ClusterError("found an ordinary user; needed root, because nodes do; fix: sudo make test-k8s")
    if shutil.which("apt-get") is None:
        raise ClusterError("found no apt-get; needed a Debian machine, whose mirror has the servers' sources")
    system_libraries.install(NEEDED)
    digest = hashlib.sha256(BUILD.read_bytes() + packages.CLIENTS.read_bytes()).hexdigest()[:12]
    folder = cache / f"{VERSION}-{digest}"
    with one_at_a_time(cache / ".lock"):
        if not (folder / "complete").is_file():
            for outdated in cache.glob(f"{VERSION.split('.')[0]}.*"):
                shutil.rmtree(outdated)
            folder.mkdir()
            _build(folder)
            packages.unpack_clients(folder / "bin")
            (folder / "complete").touch()
    return folder / "bin"


def _build(folder: Path) -> None:
    command = ["bash", str(BUILD), str(folder), VERSION]
    try:
        subprocess.run(command, check=True, timeout=BUILD_LIMIT_S)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        raise ClusterError(f"building the cluster failed, see above: `{' '.join(command)}`") from error
