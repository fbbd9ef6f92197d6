"""The log by which one master knows what the other knew, and its end, before it fills the stack's etcd.

Mooncake writes an entry for each block that is saved or evicted and deletes none. An etcd whose database has reached
its limit (2 GiB) refuses every write, of instances that want to register too.
"""

import json

from stack import etcd
from stack.etcd.rpc import Etcd3Client
from stack.store.cluster import LEADER_KEY, LOG

# Of 0.4 KiB each: some 200 MB.
LARGEST = 500_000
LAST = LOG + "durable_prefix"  # which entry was written last


class MastersLog:
    """Calls raise grpc.RpcError or Etcd3Exception while etcd is away. Each has its own connection, as gRPC's do not
    outlive a fork, and masters are started between them."""

    def __init__(self, endpoint: str, largest: int = LARGEST) -> None:
        self._endpoint = endpoint
        self._largest = largest

    def is_too_long(self) -> bool:
        with etcd.connect(self._endpoint) as client:
            return self._last(self._read(client)) > self._largest

    def forget(self) -> bool:
        """Delete it where it is too long and nobody leads, so that the next leader begins with an empty store.

        Returns: whether it is short enough now. A master that runs would hold on to what it has read of it: to be
        called without one.
        """
        with etcd.connect(self._endpoint) as client:
            seen = self._read(client)
            if seen is None or self._last(seen) <= self._largest:
                return True
            done = client.transactions
            succeeded, _ = client.transaction(
                compare=[done.version(LEADER_KEY) == 0, done.value(LAST) == seen],
                success=[done.delete(LOG, range_end=_end_of(LOG))],
                failure=[],
            )
            if succeeded:
                # Or etcd would keep what was deleted for its auto-compaction's hour.
                client.compact(client.get_response(LEADER_KEY).header.revision)
            return bool(succeeded)

    def _read(self, client: Etcd3Client) -> bytes | None:
        value: bytes | None = client.get(LAST)[0]
        return value

    @staticmethod
    def _last(prefix: bytes | None) -> int:
        return int(json.loads(prefix)["last_seq"]) if prefix else 0


def _end_of(prefix: str) -> str:
    """The first key behind those that begin with `prefix`."""
    return prefix[:-1] + chr(ord(prefix[-1]) + 1)
