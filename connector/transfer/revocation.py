"""Takes back from peers what they may do to this rank's memory, where a transfer's end leaves bytes unaccounted for.

Nothing ends a write that a peer has begun. What it gave away may come late: TCP's kernel buffers are delivered when a
cut wire is mended, and even after their process has ended; an RDMA device repeats what is not acknowledged; Mooncake
goes on with its own queue when a stopped process wakes. But every write is addressed to a segment, and the ways into
it go with its engine: connections and port (TCP), queue pairs and memory keys (RDMA). So the engine is closed, and a
new one opened under a new name over the same memory. Other transfers into the closed one fail at once.
"""

import logging
import threading
from collections.abc import Collection, Mapping

from connector.mooncake.engine import TransferError
from connector.mooncake.engines import Engines
from connector.telling.stats import TransferStats

log = logging.getLogger(__name__)

# Not nvlink_intra: a peer's mapping of GPU memory cannot be taken back, and a write is over in less than a millisecond.
BY_A_SILENT_PEER = frozenset({"rdma", "tcp"})
AFTER_A_PEERS_END = frozenset({"tcp"})  # a device forgets the writes of a process with it, the kernel sends what it has
REOPEN_PAUSE_S = 5.0  # while etcd is away


class Revocation:
    """Engines are closed and opened on a thread of its own: registering memory for RDMA may take seconds."""

    def __init__(self, engines: Engines, stats: TransferStats) -> None:
        self._engines = engines
        self._stats = stats
        self._due: set[str] = set()
        self._closed: set[str] = set()  # not yet opened again
        self._news = threading.Condition()
        threading.Thread(target=self._run, name="kv-revocation", daemon=True).start()

    def over(self, segments: Mapping[str, str], transports: Collection[str]) -> bool:
        """Whether no peer that knows `segments` can write through these transports any more; begins it otherwise.

        Also waits for the attempt to open new engines, so that the next transfer finds them.
        """
        with self._news:
            open_ones = self._engines.segments
            due = {name for name in transports if name in segments and segments[name] == open_ones.get(name)}
            if due - self._due:
                self._due |= due
                self._news.notify()
            return not self._due.intersection(transports)

    def _run(self) -> None:
        while True:
            with self._news:
                self._news.wait_for(lambda: self._due, REOPEN_PAUSE_S if self._closed else None)
                due = set(self._due)
            for transport in due:
                log.warning("peers may no longer write into segment %s", self._engines.segments[transport])
                self._engines.close(transport)
                self._stats.revoked(transport)
            self._closed |= due
            for transport in list(self._closed):
                self._open(transport)
            with self._news:
                self._due -= due

    def _open(self, transport: str) -> None:
        try:
            self._engines.open(transport)
        except TransferError as error:
            log.warning("no KV cache comes over %s until its engine is open again: %s", transport, error)
        else:
            self._closed.discard(transport)
            log.info("peers may write into segment %s", self._engines.segments[transport])
