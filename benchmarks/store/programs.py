"""The store of a run: a master and an owner, as `make up` starts them."""

import sys
import sysconfig
import time
import urllib.error
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks import exposition
from benchmarks.deadline import Deadline
from benchmarks.processes import Launch, Processes
from stack.network import addresses
from stack.network.direct_http import open_directly
from stack.running import store as commands

MASTER, OWNER = "store-master", "store-owner"
HOST = "127.0.0.1"
POLL_S = 0.2
PROBE_TIMEOUT_S = 2.0
CAPACITY, KEYS, EVICTED = "master_total_capacity_bytes", "master_key_count", "master_evicted_key_count"


@dataclass(frozen=True)
class Store:
    """`address` is the master's host:port, what STORE_MASTER says."""

    address: str
    metrics_url: str

    def counted(self) -> dict[str, int] | None:
        """Memory in bytes, keys, and those that made room for others; None: the master does not answer."""
        try:
            with open_directly(self.metrics_url, PROBE_TIMEOUT_S) as answer:
                found = exposition.totals(answer.read().decode())
        except (urllib.error.URLError, OSError):
            return None
        return {
            "capacity_bytes": int(found.get(CAPACITY, 0)),
            "keys": int(found.get(KEYS, 0)),
            "evicted_keys": int(found.get(EVICTED, 0)),
        }


def start(size: int, profile: str, ports: Iterator[int], processes: Processes, deadline: Deadline) -> Store:
    """Returns: once the master knows of the owner's memory of `size` bytes. Raises: CannotStart, OutOfTime."""
    programs = Path(sys.executable).parent
    rpc, http, owner_rpc, owner_http = (next(ports) for _ in range(4))
    store = Store(addresses.join(HOST, rpc), f"{addresses.http_url(HOST, http)}/metrics")
    of_owner = commands.owner_command(programs, HOST, owner_rpc, owner_http, store.address, size)
    for_cuda = commands.on_gpus(Path(sysconfig.get_path("purelib"))) if profile == "gpu" else {}
    processes.start(
        [
            Launch(MASTER, commands.master_command(programs, HOST, rpc, http), {}),
            Launch(OWNER, of_owner, for_cuda),
        ]
    )
    while not (counted := store.counted()) or not counted["capacity_bytes"]:
        deadline.left()
        processes.check()
        time.sleep(POLL_S)
    return store
