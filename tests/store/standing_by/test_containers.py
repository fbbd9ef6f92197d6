"""compose.store.yaml with STORE_MASTERS=2: as confined as the others, and what one master knew the other one knows."""

import json
import time
from collections.abc import Iterator

import pytest

from tests.compose.project import Project
from tests.real_stack import wait_until
from tests.store.test_containers import kill

TAKE_OVER_LIMIT_S = 90.0
WRITTEN_S = 2.0
OWNER_BYTES = 64 << 20
# With an end of its own: a client that follows two masters' leader takes 30 s to close.
CLIENT = """
import os, socket
from mooncake.store import MooncakeDistributedStore
store = MooncakeDistributedStore()
address = socket.gethostbyname(socket.gethostname())
assert store.setup(address, "P2PHANDSHAKE", 0, 16 << 20, "tcp", "", "etcd://etcd:2379") == 0
print({asked}, flush=True)
os._exit(0)
"""
HEALTH = "import urllib.request as r; print(r.urlopen('http://127.0.0.1:50052/health').read().decode())"

pytestmark = pytest.mark.timeout(3000)  # it waits for the images


@pytest.fixture(scope="module")
def project() -> Iterator[Project]:
    variables = {"STORE_BYTES": str(OWNER_BYTES), "STORE_MASTERS": "2"}
    project = Project(("compose.yaml", "compose.store.yaml"), variables)
    try:
        project.compose("build", "etcd", "prepare", limit_s=2400)
        project.compose("up", "--no-build", "--wait", "--no-deps", "etcd", "store-master", "store", limit_s=300)
        yield project
    finally:
        print(project.compose("logs", "--no-color", "--tail", "100"))
        project.compose("down", "--volumes", "--remove-orphans")
    assert project.remains() == []


def test_the_other_master_takes_over(project: Project) -> None:
    containers = project.inspect("store-master")
    assert len(containers) == 2
    for container in containers:
        host = container["HostConfig"]
        assert container["State"]["Health"]["Status"] == "healthy"
        assert container["Config"]["User"] == "10001:10001"
        assert (host["CapDrop"], host["ReadonlyRootfs"], host["Privileged"]) == (["ALL"], True, False)
        assert list(container["NetworkSettings"]["Networks"]) == [f"{project.name}_inside"]
        assert not host["PortBindings"]
        assert not container["Mounts"]
    wait_until(lambda: client(project, 'store.put("key", b"value")') == "0", TAKE_OVER_LIMIT_S, "the owner is known")
    (before,) = leaders(project)
    time.sleep(WRITTEN_S)

    kill(project, before, "mooncake_master")
    wait_until(lambda: leaders(project) not in ([], [before]), TAKE_OVER_LIMIT_S, "the other one leads")
    wait_until(lambda: client(project, 'store.get("key")') == "b'value'", TAKE_OVER_LIMIT_S, "the key is found")


def leaders(project: Project) -> list[str]:
    """Containers; none while another takes over."""
    return [each for each in project.container_ids("store-master") if state(project, each) == "serving"]


def state(project: Project, container: str) -> str:
    found = project.docker("exec", container, "sh", "-c", f'python -c "{HEALTH}" || echo "{{}}"')
    return str(json.loads(found.splitlines()[-1]).get("ha_state", ""))


def client(project: Project, asked: str) -> str:
    """What Mooncake's client in the owner's container says of `asked`."""
    code = CLIENT.replace("{asked}", asked)
    found = project.compose("exec", "-T", "store", "python", "-c", code).split()
    return found[-1] if found else ""
