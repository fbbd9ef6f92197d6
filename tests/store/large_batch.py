"""A save and a load of many buffers, as an instance's client makes them.

python -m tests.store.large_batch HOST MASTER WAY

WAY: `direct`, or `staged`, through other memory as from a GPU. Prints how many blocks were saved and loaded well, and
how many of the loaded bytes are the saved ones.
"""

import ctypes
import os
import sys
import time
from collections.abc import Callable, Sequence

from connector.store.late_client import LateClient
from connector.store.moving import ways

PART_BYTES = 4 << 20  # the batch is 30 MB
KEYS, BUFFERS, BYTES = 250, 30, 4096  # the blocks of 8,000 tokens, their layers, and little of each


class HostCopies:
    """In the place of a GPU's."""

    def begin(self, sources: Sequence[int], targets: Sequence[int], sizes: Sequence[int]) -> Callable[[], None]:
        for source, target, size in zip(sources, targets, sizes, strict=True):
            ctypes.memmove(target, source, size)
        return lambda: None


def main(host: str, master: str, way: str) -> None:
    from mooncake.store import MooncakeDistributedStore, ReplicateConfig

    client = LateClient(MooncakeDistributedStore)
    client.setup(host, "P2PHANDSHAKE", 0, 16 << 20, "tcp", "", master)
    size = KEYS * BUFFERS * BYTES
    memory = ctypes.create_string_buffer(b"".join(number.to_bytes(8, "little") for number in range(size // 8)), size)
    saved, start = memory.raw, ctypes.addressof(memory)
    assert client.register_buffer(start, size) == 0
    ways.PART_BYTES = PART_BYTES
    areas = ctypes.create_string_buffer(3 * PART_BYTES)
    if way == "staged":
        first = ctypes.addressof(areas)
        assert client.register_buffer(first, len(areas)) == 0
        places = [ways.Area(first + index * PART_BYTES) for index in range(3)]
        client.go(ways.Staged(places[:2], places[2], HostCopies()))
    keys = [f"large {time.time_ns()} {key}" for key in range(KEYS)]
    buffers = [[start + (key * BUFFERS + buffer) * BYTES for buffer in range(BUFFERS)] for key in range(KEYS)]
    sizes = [[BYTES] * BUFFERS] * KEYS
    put = client.batch_put_from_multi_buffers(keys, buffers, sizes, ReplicateConfig())
    ctypes.memset(start, 0, size)
    got = client.batch_get_into_multi_buffers(keys, buffers, sizes)
    loaded = memory.raw
    equal = size if loaded == saved else sum(one == other for one, other in zip(saved, loaded, strict=True))
    print(sum(result >= 0 for result in put), sum(result >= 0 for result in got), equal, flush=True)
    os._exit(0)  # one that follows two masters' leader takes 30 s to close


if __name__ == "__main__":
    main(*sys.argv[1:])
