"""One rank's KV cache: how it is laid out, how its bytes are read, and what writes from it to other ranks."""

import ctypes
from dataclasses import dataclass
from typing import Protocol

from connector.cache.layout import KVLayout
from connector.mooncake.engines import Engines


class Memory(Protocol):
    def read(self, address: int, length: int) -> memoryview:
        """The bytes that lie there now; they must not change as long as the view is used."""


class HostMemory:
    """This process's own memory, not copied. Reading an address that is not mapped ends the process."""

    def read(self, address: int, length: int) -> memoryview:
        return memoryview((ctypes.c_char * length).from_address(address)).cast("B")


@dataclass(frozen=True)
class RankCache:
    layout: KVLayout
    memory: Memory
    engines: Engines
