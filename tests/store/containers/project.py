"""A compose project with a KV store: what its masters say, programs that are killed, a client without a model."""

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stack.store import cluster
from tests.compose.project import BUILD_AND_START_LIMIT_S, LOG_LINES, Project
from tests.real_stack import wait_until
from tests.store import client
from tests.store.values import Values

BACK_LIMIT_S = 60.0
OWNER = "mooncake_client"
MASTER = "mooncake_master"
ASK = "import sys, urllib.request as r; print(r.urlopen('http://127.0.0.1:50052' + sys.argv[1]).read().decode())"
CLIENT = 'exec python -c "$0" "$(hostname -i)" "$@"'


@dataclass
class StoreProject(Project, Values):
    """Of so many masters and owners, the latter with so many bytes of memory each."""

    masters: int = 1
    owners: int = 2
    owner_bytes: int = 16 << 20

    def __post_init__(self) -> None:
        self.files = ("compose.yaml", "compose.store.yaml")
        of_store = {"STORE_MASTERS": str(self.masters), "STORE_BYTES": str(self.owner_bytes)}
        self.variables = {**of_store, **self.variables}
        super().__post_init__()

    @contextmanager
    def taken_down(self) -> Iterator[None]:
        """At the end, whatever happens."""
        try:
            yield
        finally:
            print(self.compose("logs", "--no-color", "--tail", LOG_LINES))
            self.compose("down", "--volumes", "--remove-orphans")
        assert self.remains() == []

    def start_store(self) -> None:
        """Without instances. Images are built where an input has changed."""
        self.compose("build", "etcd", "prepare", limit_s=BUILD_AND_START_LIMIT_S)
        scaled = ("--scale", f"store={self.owners}")
        self.compose("up", "--no-build", "--wait", "--no-deps", *scaled, "etcd", "store-master", "store")
        self.wait_for_memory()

    def wait_for_memory(self) -> None:
        """Until one master leads and knows of every owner."""
        line = f"master_total_capacity_bytes {self.owners * self.owner_bytes}"

        def all_there() -> bool:
            leaders = self.leaders
            return len(leaders) == 1 and line in self._told(leaders[0], "/metrics").splitlines()

        wait_until(all_there, BACK_LIMIT_S, f"a master knows of {self.owners} owners")

    @property
    def leaders(self) -> list[str]:
        """Containers; mostly one, none while another takes over. A single master always leads."""
        masters = self.container_ids("store-master")
        return masters if self.masters == 1 else [each for each in masters if self._state(each) == "serving"]

    def kill(self, container: str, program: str) -> None:
        """From inside: one that the engine is told to kill it does not start again."""
        find = f'for p in /proc/[0-9]*; do case "$(cat $p/comm)" in {program}) kill -9 "${{p#/proc/}}";; esac; done'
        self.docker("exec", container, "sh", "-c", find)

    def restarts(self, container: str) -> int:
        return int(self._inspected(container)["RestartCount"])

    def is_healthy(self, container: str) -> bool:
        state = self._inspected(container)["State"]
        return bool(state["Running"] and state["Health"]["Status"] == "healthy")

    def kill_and_wait(self, program: str, *containers: str) -> None:
        """Until the engine has started each again, once, and it is healthy."""
        wanted = {each: self.restarts(each) + 1 for each in containers}
        for container in containers:
            self.kill(container, program)

        def are_back() -> bool:
            return all(self.restarts(each) == wanted[each] and self.is_healthy(each) for each in containers)

        wait_until(are_back, BACK_LIMIT_S, f"{program} is started again, once in each container")

    def _client(self, verb: str, first: int, count: int) -> list[int]:
        """In a container of its own, as any other may be away."""
        master = "store-master:50051" if self.masters == 1 else cluster.address("etcd:2379")
        bounds = [part for name, value in cluster.RPC_TIMEOUTS.items() for part in ("--env", f"{name}={value}")]
        words = (Path(client.__file__).read_text(), master, verb, str(first), str(count))
        found = self.compose("run", "--rm", "--no-deps", "-T", *bounds, "store", "sh", "-c", CLIENT, *words)
        return [int(word) for word in found.splitlines()[-1].split()]

    def _inspected(self, container: str) -> dict[str, Any]:
        (found,) = json.loads(self.docker("inspect", container))
        return dict(found)

    def _state(self, container: str) -> str:
        return str(json.loads(self._told(container, "/health") or "{}").get("ha_state", ""))

    def _told(self, container: str, path: str) -> str:
        """Empty where the master in there says nothing."""
        try:
            return self.docker("exec", container, "python", "-c", ASK, path)
        except subprocess.CalledProcessError:
            return ""


def assert_locked_in(container: dict[str, Any], network: str) -> None:
    host = container["HostConfig"]
    assert container["State"]["Health"]["Status"] == "healthy"
    assert container["Config"]["User"] == "10001:10001"
    assert (host["CapDrop"], host["CapAdd"]) == (["ALL"], None)
    assert (host["ReadonlyRootfs"], host["Privileged"]) == (True, False)
    assert list(container["NetworkSettings"]["Networks"]) == [network]
    assert not host["PortBindings"]
