"""One instance's load from a store over RDMA, without vLLM: python instance.py OPTIONS (a JSON object)

Mooncake's client, bare or as the connector has it, and the connector's rules for the blocks that a load writes to. What
becomes of blocks that are given back another request decides, which writes `OTHERS` to them. Prints a JSON object when
it has joined the store, then obeys one JSON line after the other and answers each with one.
"""

import ctypes
import json
import logging
import mmap
import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterable
from queue import SimpleQueue
from typing import Any

from connector.store.late_client import LateClient
from connector.store.loads import HeldForLoads, LoadBounds

BLOCKS = range(1, 17)
PAGE = 64 << 10
BYTES = len(BLOCKS) * PAGE
STORED, OTHERS = b"\7", b"\1"
LOAD_TIMEOUT_S = 5.0
STEP_S = 0.05
KEYS = [f"block {block}" for block in BLOCKS]
SIZES = [[PAGE]] * len(BLOCKS)


class Instance:
    def __init__(self, options: dict[str, Any]) -> None:
        from mooncake.store import MooncakeDistributedStore, ReplicateConfig  # not where a test takes the sizes only

        self._config = ReplicateConfig()
        self._holds: bool = options["holds"]  # blocks until the client's call has returned, as the connector does
        self._memory = mmap.mmap(-1, BYTES + PAGE)
        self._base = ctypes.addressof(ctypes.c_char.from_buffer(self._memory))
        self._buffers = [[self._base + block * PAGE] for block in BLOCKS]
        self._client = LateClient(MooncakeDistributedStore) if options["leaves"] else MooncakeDistributedStore()
        own = (options["host"], "P2PHANDSHAKE", 0, 1 << 20, "rdma", options["device"], options["master"])
        assert self._client.setup(*own) == 0
        assert self._client.register_buffer(self._base, len(self._memory)) == 0

    def save(self) -> list[int]:
        self._write(BLOCKS, STORED)
        return list(self._client.batch_put_from_multi_buffers(KEYS, self._buffers, SIZES, self._config))

    def load(self) -> dict[str, Any]:
        """As vLLM does it, in steps, until the blocks are another request's. Seconds since its beginning."""
        begun, facts = time.monotonic(), dict[str, Any]()
        returned: SimpleQueue[str] = SimpleQueue()
        bounds, held = LoadBounds(LOAD_TIMEOUT_S), HeldForLoads(lambda blocks: None, self._becomes_anothers)

        def call() -> None:
            facts["results"] = self._client.batch_get_into_multi_buffers(KEYS, self._buffers, SIZES)
            facts["returned"] = time.monotonic() - begun
            returned.put("load")

        self._write(BLOCKS, bytes(1))
        bounds.begun("load")
        held.begins("load", BLOCKS)
        threading.Thread(target=call, daemon=True).start()
        while "load" in held:
            settled = bounds.settle([returned.get() for _ in range(returned.qsize())])
            if settled.finished:
                facts["over for its request"] = time.monotonic() - begun
                facts["loaded"] = self._found(STORED)
            if settled.finished and not self._holds:
                self._becomes_anothers(BLOCKS)
                break
            held.settle(settled.finished, Counter(settled.overdue), Counter(settled.ended))
            time.sleep(STEP_S)
        return {**facts, "given back": time.monotonic() - begun}

    def late_bytes(self) -> int:
        """Of the store's, in blocks that are another request's."""
        return self._found(STORED)

    def _becomes_anothers(self, blocks: Iterable[int]) -> None:
        self._write(blocks, OTHERS)

    def _write(self, blocks: Iterable[int], byte: bytes) -> None:
        for block in blocks:
            ctypes.memset(self._base + block * PAGE, ord(byte), PAGE)

    def _found(self, byte: bytes) -> int:
        return self._memory[PAGE:].count(byte)


def main() -> None:
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(name)s: %(message)s")
    instance = Instance(json.loads(sys.argv[1]))
    print(json.dumps({"pid": os.getpid()}), flush=True)
    for line in sys.stdin:
        name, *arguments = json.loads(line)
        print(json.dumps(getattr(instance, name)(*arguments)), flush=True)
    os._exit(0)  # its client takes long to close


if __name__ == "__main__":
    main()
