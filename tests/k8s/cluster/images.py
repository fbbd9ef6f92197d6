"""The stack's images: built by the machine's own engine as `docker compose build` does, then copied to each node's."""

import json
import subprocess
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from tests.compose.project import Project
from tests.k8s.cluster.binaries import ClusterError
from tests.k8s.cluster.node import Node

BUILD_LIMIT_S = 2400
COPY_LIMIT_S = 900
SERVICES = ("etcd", "prepare", "proxy", "loadtest")  # `prepare` has the instances' image


def build() -> list[str]:
    """Names of the images. Raises: ClusterError: no engine answers."""
    if subprocess.run(["docker", "info"], capture_output=True, check=False).returncode != 0:
        raise ClusterError("found no Docker engine that answers; needed one to build images; fix: sh .ci/docker.sh")
    project = Project(files=("compose.yaml",))
    project.compose("build", *SERVICES, limit_s=BUILD_LIMIT_S)
    services = json.loads(project.compose("config", "--format", "json"))["services"]
    return [services[service]["image"] for service in SERVICES]


def copy(images: Sequence[str], nodes: Sequence[Node]) -> None:
    """Those of `images` that a node has not, or has another build of."""
    wanted = _identities([], images)
    with ThreadPoolExecutor() as at_once:
        list(at_once.map(lambda node: _copy(wanted, node), nodes))


def _copy(wanted: Mapping[str, str], node: Node) -> None:
    present = _identities(["-H", node.engine], list(wanted))
    absent = [image for image, identity in wanted.items() if present.get(image) != identity]
    if not absent:
        return
    with subprocess.Popen(["docker", "save", *absent], stdout=subprocess.PIPE) as saving:
        loading = ["docker", "-H", node.engine, "load", "--quiet"]
        subprocess.run(loading, stdin=saving.stdout, stdout=subprocess.DEVNULL, check=True, timeout=COPY_LIMIT_S)
    if saving.returncode != 0:
        raise ClusterError(f"`docker save {' '.join(absent)}` failed")


def _identities(engine: Sequence[str], images: Sequence[str]) -> dict[str, str]:
    command = ["docker", *engine, "image", "inspect", "--format", "{{.Id}}"]
    found: dict[str, str] = {}
    for image in images:  # one at a time: an absent one is an error
        result = subprocess.run([*command, image], capture_output=True, text=True, check=False)
        if result.returncode == 0:
            found[image] = result.stdout.strip()
    return found
