"""The containers of the KV store, which compose.store.yaml turns on, beside the running stack."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.compose.project import Project

pytestmark = pytest.mark.timeout(3000)  # the first test waits for the images

OF_STORE = ("store-master", "store")
CLIENT = """
import socket, sys
from mooncake.store import MooncakeDistributedStore
store = MooncakeDistributedStore()
address = socket.gethostbyname(socket.gethostname())
assert store.setup(address, "P2PHANDSHAKE", 0, 16 << 20, "tcp", "", "store-master:50051") == 0
"""
VALUE = "12345" * 1000


@pytest.fixture
def containers(project: Project) -> Iterator[list[dict[str, Any]]]:
    """Of a master and two owners."""
    try:
        project.compose("up", "--wait", "--no-deps", "--scale", "store=2", *OF_STORE)
        yield project.inspect(*OF_STORE)
    finally:
        project.compose("rm", "--stop", "--force", *OF_STORE)


def test_the_store_is_locked_in_and_every_instance_reaches_it(
    project: Project, containers: list[dict[str, Any]]
) -> None:
    assert len(containers) == 3
    for container in containers:
        host = container["HostConfig"]
        assert container["State"]["Health"]["Status"] == "healthy"
        assert container["Config"]["User"] == "10001:10001"
        assert (host["CapDrop"], host["CapAdd"]) == (["ALL"], None)
        assert (host["ReadonlyRootfs"], host["Privileged"]) == (True, False)
        assert host["Memory"] > 0
        assert list(container["NetworkSettings"]["Networks"]) == [f"{project.name}_inside"]
        assert not host["PortBindings"]
        assert not container["Mounts"]

    assert client(project, "prefill", f'store.put("key", b"{VALUE}")') == "0"
    assert client(project, "decode", 'store.get("key")') == f"b'{VALUE}'"
    assert client(project, "decode", 'store.get("another")') == "b''"


def client(project: Project, service: str, asked: str) -> str:
    """What Mooncake's client in a container of this service says of `asked`."""
    return project.compose("exec", "-T", service, "python", "-c", f"{CLIENT}print({asked})\nstore.close()").strip()
