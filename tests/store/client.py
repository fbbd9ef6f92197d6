"""A client of a store without a model: python -m tests.store.client HOST MASTER put|get FIRST COUNT

Of so many values from the first one on. `put` prints how many were saved; `get` how many were there with the right
bytes, how many with wrong ones, and how many were on a disk alone.
"""

import ctypes
import os
import sys
import time
from collections.abc import Sequence
from typing import Any

VALUE_BYTES = 64 << 10
AT_ONCE = 16
BETWEEN_S = 0.2  # in which an owner can write them to its disk


def main(host: str, master: str, verb: str, first: str, count: str) -> None:
    from mooncake.store import MooncakeDistributedStore, ReplicateConfig

    client = MooncakeDistributedStore()
    assert client.setup(host, "P2PHANDSHAKE", 0, 16 << 20, "tcp", "", master) == 0
    memory = ctypes.create_string_buffer(AT_ONCE * VALUE_BYTES)
    start = ctypes.addressof(memory)
    assert client.register_buffer(start, len(memory)) == 0
    numbers = range(int(first), int(first) + int(count))
    saved = right = wrong = on_disk = 0
    for begin in range(0, len(numbers), AT_ONCE):
        some = numbers[begin : begin + AT_ONCE]
        keys = [f"value {number}" for number in some]
        buffers = [[start + place * VALUE_BYTES] for place in range(len(some))]
        sizes = [[VALUE_BYTES]] * len(some)
        if verb == "put":
            ctypes.memmove(memory, b"".join(map(value, some)), len(some) * VALUE_BYTES)
            found = client.batch_put_from_multi_buffers(keys, buffers, sizes, ReplicateConfig())
            saved += sum(result >= 0 for result in found)
            time.sleep(BETWEEN_S)
            continue
        on_disk += forgotten_by_memory(client, keys)
        found = client.batch_get_into_multi_buffers(keys, buffers, sizes)
        for place, (number, result) in enumerate(zip(some, found, strict=True)):
            if result >= 0:
                is_right = memory.raw[place * VALUE_BYTES : (place + 1) * VALUE_BYTES] == value(number)
                right, wrong = right + is_right, wrong + (not is_right)
    print(*([saved] if verb == "put" else [right, wrong, on_disk]), flush=True)
    os._exit(0)  # one that follows two masters' leader takes 30 s to close


def value(number: int) -> bytes:
    return number.to_bytes(8, "little") * (VALUE_BYTES // 8)


def forgotten_by_memory(client: Any, keys: Sequence[str]) -> int:
    replicas = client.batch_get_replica_desc(keys)
    return sum(
        bool(replicas.get(key)) and not any(replica.is_memory_replica() for replica in replicas[key]) for key in keys
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
