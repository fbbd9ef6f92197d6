"""Mooncake's client, also while no master answers: an instance starts without the store and joins it later.

vLLM's connector ends its process where the client cannot be set up: no instance could start without the store.
"""

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from connector.store.moving.ways import Direct, Way
from stack.store import cluster

log = logging.getLogger(__name__)

FIRST_TRY_S = 3.0  # for which a start waits
BETWEEN_TRIES_S = 3.0
PROTOCOL, MASTER = 4, 6  # which of the arguments of `setup` name them
NOT_THERE, NO_ROOM, FAILED, TRANSFER_FAILED = 0, -200, -1, -800  # as Mooncake's client says it


class LateClient:
    """In the place of a `MooncakeDistributedStore`, with those of its methods that vLLM's connector calls.

    Until it has joined, nothing is in the store and there is no room in it. So it is again once it has left: over RDMA
    after a load whose reads may not have ended.
    """

    def __init__(
        self, make: Callable[[], Any], first_try_s: float = FIRST_TRY_S, between_tries_s: float = BETWEEN_TRIES_S
    ) -> None:
        """make: a client that has not been set up."""
        self._make = make
        self._first_try_s = first_try_s
        self._between_tries_s = between_tries_s
        self._joined: Any = None
        self._left: Any = None  # never closed
        self.over_rdma = False
        self._buffers: list[tuple[int, int]] = []
        self._way: Way = Direct()
        self._lock = threading.Lock()  # of these: each buffer is one that the joined client has, or noted for it
        self._first_tried = threading.Event()
        self._closed = threading.Event()

    def setup(self, *arguments: Any, **more: Any) -> int:
        self.over_rdma = "rdma" in arguments[PROTOCOL : PROTOCOL + 1]
        threading.Thread(target=self._join, args=(arguments, more), name="store-join", daemon=True).start()
        self._first_tried.wait(self._first_try_s)
        if self._joined is None:
            log.warning("the KV store does not answer: starting without it, and joining it when it does")
        return 0

    def _join(self, arguments: tuple[Any, ...], more: dict[str, Any]) -> None:
        while not self._closed.is_set():
            # Where there is no leader Mooncake's client looks for one for 2 s, in which no other thread runs.
            if all(map(cluster.has_leader, arguments[MASTER : MASTER + 1])):
                client = self._make()
                if client.setup(*arguments, **more) == 0 and self._bring(client):
                    break
                client.close()
            self._first_tried.set()
            self._closed.wait(self._between_tries_s)
        self._first_tried.set()

    def _bring(self, client: Any) -> bool:
        with self._lock:
            if self._closed.is_set() or any(client.register_buffer(*buffer) != 0 for buffer in self._buffers):
                return False
            self._joined = client
        log.info("joined the KV store")
        return True

    def register_buffer(self, address: int, length: int) -> int:
        with self._lock:
            code = 0 if self._joined is None else int(self._joined.register_buffer(address, length))
            if code == 0:
                self._buffers.append((address, length))
            return code

    def go(self, way: Way) -> None:
        """Saves and loads from now on."""
        self._way = way

    def batch_is_exist(self, keys: Sequence[str]) -> list[int]:
        return [NOT_THERE] * len(keys) if self._joined is None else self._joined.batch_is_exist(keys)

    def batch_get_into_multi_buffers(
        self, keys: Sequence[str], buffers: Sequence[Sequence[int]], sizes: Sequence[Sequence[int]]
    ) -> list[int]:
        """Once it has returned, well or not, nothing is written to `buffers` any more."""
        if (client := self._joined) is None:
            return [FAILED] * len(keys)
        results = [TRANSFER_FAILED]
        try:
            results = self._way.load(
                lambda part, *memory: client.batch_get_into_multi_buffers(keys[part], *memory), buffers, sizes
            )
            return results
        finally:
            if self.over_rdma and TRANSFER_FAILED in results:
                self._leave(client)

    def _leave(self, client: Any) -> None:
        """Take the instance's memory back from `client`, whose reads may not have ended.

        Mooncake waits 60 s for them, and its workers go on with them after that; over TCP they break off before. A card
        writes to no memory that is not registered. The client is left as it is, as it holds Python up while it closes,
        and with reads under way for 10 s at least.
        """
        with self._lock:
            self._joined, self._left = None, client
            self._buffers = [buffer for buffer in self._buffers if client.unregister_buffer(buffer[0]) != 0]
            if not self._buffers:
                log.warning("a load over RDMA failed: this instance leaves the KV store until it is restarted")
                return
        log.error("a load over RDMA failed, and Mooncake keeps the memory: its blocks stay out of use until a restart")
        self._closed.wait()

    def batch_put_from_multi_buffers(
        self, keys: Sequence[str], buffers: Sequence[Sequence[int]], sizes: Sequence[Sequence[int]], config: Any
    ) -> list[int]:
        """`config` is Mooncake's; its `group_ids`, where it has some, are one of each key."""
        if (client := self._joined) is None:
            return [NO_ROOM] * len(keys)
        groups = list(getattr(config, "group_ids", None) or ())

        def put(part: slice, *memory: Sequence[Sequence[int]]) -> Sequence[int]:
            if groups:
                config.group_ids = groups[part]
            found: Sequence[int] = client.batch_put_from_multi_buffers(keys[part], *memory, config)
            return found

        return self._way.save(put, buffers, sizes)

    def batch_get_replica_desc(self, keys: Sequence[str]) -> dict[str, Any]:
        return {} if self._joined is None else self._joined.batch_get_replica_desc(keys)

    def close(self) -> None:
        self._closed.set()
        with self._lock:
            joined, self._joined = self._joined, None
        if joined is not None:
            joined.close()


@contextmanager
def joining_late() -> Iterator[None]:
    """Within it vLLM's connector makes such clients."""
    import mooncake.store

    made = mooncake.store.MooncakeDistributedStore
    mooncake.store.MooncakeDistributedStore = partial(LateClient, made)
    try:
        yield
    finally:
        mooncake.store.MooncakeDistributedStore = made
