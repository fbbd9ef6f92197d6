"""A store with two masters that stand by for each other."""

import json
import urllib.request
from pathlib import Path

from stack.running import store
from stack.store import cluster
from tests.real_stack import wait_until
from tests.store.processes import HOST, MOUNT_LIMIT_S, PROGRAMS, SEGMENT_BYTES, Part, Store


class TwoMasters(Store):
    """Of which one leads; what it knows is in the log in `etcd`, of at most `largest_log` entries."""

    masters = ("first", "second")
    rpc_ports, http_ports = (24061, 24063), (24062, 24064)
    owner_ports = (24065, 24066)

    def __init__(self, folder: Path, etcd: str, largest_log: int | None = None) -> None:
        super().__init__(folder)
        self._etcd = etcd
        self._largest_log = largest_log
        self.address = cluster.address(etcd)

    @property
    def leader(self) -> Part:
        (found,) = self.leaders
        return found

    @property
    def leaders(self) -> list[Part]:
        """Mostly one; none while another takes over."""
        return [part for part in self.masters if self._state(part) == "serving"]

    def wait_for_memory(self) -> None:
        wait_until(lambda: len(self.leaders) == 1, MOUNT_LIMIT_S, f"a master leads:\n{self.log}")
        super().wait_for_memory()

    def _state(self, part: Part) -> str:
        try:
            with urllib.request.urlopen(f"{self._http(part)}/health", timeout=2) as response:
                return str(json.load(response)["ha_state"])
        except OSError:
            return "away"

    def _command(self, part: Part) -> tuple[str, ...]:
        if part == "owner":
            return store.owner_command(PROGRAMS, HOST, *self.owner_ports, self.address, SEGMENT_BYTES)
        command = store.standing_by_command(PROGRAMS, HOST, self.rpc_ports, self.http_ports, self._etcd)
        return command if self._largest_log is None else (*command, f"--largest-log={self._largest_log}")

    def _variables(self, part: Part) -> dict[str, str]:
        if part == "owner":
            return cluster.of_clients(self.address)
        return {"INSTANCE_INDEX": str(self.masters.index(part))}

    def _http(self, part: Part) -> str:
        return f"http://{HOST}:{self.http_ports[self.masters.index(part)]}"
