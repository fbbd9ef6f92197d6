"""An end-to-end checksum of a share: over what the producer handed to the engine, and over what the consumer got.

Each layer has a running CRC over its blocks in the prompt's order, which is the order in which they leave; how the
layers were interleaved on the way does not matter. The producer reads blocks while their write is in flight, because
only so long nobody rewrites them; the consumer reads them before vLLM learns that they have arrived. A producer that is
asked for more than one token writes on into the prompt's last block, and its checksum may not hold.
"""

import zlib
from array import array
from collections.abc import Collection, Iterable, Iterator

from connector.cache.layout import KVLayout
from connector.control.messages import Register
from connector.mooncake.rank_cache import Memory

# What one read may copy from a device to the host at most.
MAX_READ_BYTES = 64 << 20


class LayerChecksums:
    """A running CRC-32 for each layer, and one number for all of them."""

    def __init__(self, layers: int) -> None:
        self._sums = [0] * layers

    def add(self, layer: int, memory: Memory, addresses: Iterable[int], length: int) -> None:
        """The layer's next blocks, of which `length` bytes from each address on belong to the share."""
        for start, size in _joined(addresses, length):
            self._sums[layer] = zlib.crc32(memory.read(start, size), self._sums[layer])

    def value(self) -> int:
        return zlib.crc32(array("I", self._sums).tobytes())


def _joined(addresses: Iterable[int], length: int) -> Iterator[tuple[int, int]]:
    """Blocks that follow each other in memory as one (address, length): every call, and every copy from a device, has a
    price of its own."""
    start, size = 0, 0
    for address in addresses:
        if size and address == start + size and size + length <= MAX_READ_BYTES:
            size += length
            continue
        if size:
            yield start, size
        start, size = address, length
    if size:
        yield start, size


def checksum_of_registered(
    memory: Memory, layout: KVLayout, registration: Register, filled: Collection[int] | None = None
) -> int:
    """What `LayerChecksums` of the other side must have come to when everything arrived whole that it had of what was
    registered.

    Args: layout: of the rank that registered, and whose memory this is. filled: as in `Done`.
    """
    sums = LayerChecksums(len(registration.layers))
    for place, there in enumerate(registration.layers):
        if filled is not None and place not in filled:
            continue
        layer = layout.layers[layout.by_name[there.name]]
        blocks = registration.groups[layer.group].block_ids
        addresses = [there.address + block * there.block_stride for block in blocks]
        sums.add(place, memory, addresses, there.heads * layer.head_bytes)
    return sums.value()
