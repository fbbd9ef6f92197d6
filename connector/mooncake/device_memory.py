"""Registered GPU memory, by address, and copies of it that do not wait for vLLM's forward pass.

Tensors are `Any`, because this module is loaded where there is no torch.
"""

import queue
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from connector.cache.pieces import Piece, batches
from connector.mooncake.engine import TransferEngine
from connector.mooncake.polled_write import always

STAGING_BYTES = 32 << 20  # of pinned host memory for each write under way


class DeviceMemory:
    """Registered regions of one GPU.

    Args:
        buffers: each a one-dimensional uint8 tensor over a whole region.
        apart: a context in which a copy does not wait for the forward pass, `lambda: torch.cuda.stream(own_stream)`.
    """

    def __init__(self, buffers: Sequence[Any], apart: Callable[[], AbstractContextManager[Any]]) -> None:
        self._buffers = [(int(buffer.data_ptr()), len(buffer), buffer) for buffer in buffers]
        self.apart = apart

    def view(self, address: int, length: int) -> Any:
        """A uint8 tensor of the bytes there. Raises: ValueError: for bytes that lie in none of the regions."""
        for start, size, buffer in self._buffers:
            if start <= address and address + length <= start + size:
                return buffer[address - start : address - start + length]
        raise ValueError(f"{length} bytes at {address:#x} lie in no registered region")

    def read(self, address: int, length: int) -> memoryview:
        """For checksums. Raises: ValueError: as `view`."""
        with self.apart():
            return memoryview(self.view(address, length).cpu().numpy())


class StagedEngine:
    """Writes from GPU memory through pinned host memory; peers write to the GPU memory itself.

    For TCP: Mooncake copies every slice from the GPU with a synchronous copy on the default stream, which waits for the
    forward pass there and holds it up (on one H200 a prefill of 1,000 tokens took 53 instead of 32 ms).

    `staging`: tensors of pinned host memory, one for each write that may be under way at once.
    """

    def __init__(self, engine: TransferEngine, memory: DeviceMemory, staging: Sequence[Any]) -> None:
        self.segment = engine.segment
        self._engine = engine
        self._memory = memory
        self._free: queue.SimpleQueue[Any] = queue.SimpleQueue()
        for buffer in staging:
            self._free.put(buffer)

    def register(self, address: int, length: int) -> None:
        self._engine.register(address, length)

    def write(self, segment: str, pieces: Sequence[Piece], wanted: Callable[[], bool] = always) -> None:
        staging = self._free.get()
        try:
            for batch in batches(pieces, len(staging)):
                staged: list[Piece] = []
                offset = 0
                with self._memory.apart() as stream:
                    for source, target, length in batch:
                        staging[offset : offset + length].copy_(self._memory.view(source, length), non_blocking=True)
                        staged.append(Piece(staging.data_ptr() + offset, target, length))
                        offset += length
                    stream.synchronize()
                self._engine.write(segment, staged, wanted)
        finally:
            self._free.put(staging)

    def close(self) -> None:
        self._engine.close()


def on_gpu(storages: Sequence[Any], device: Any) -> DeviceMemory:
    """The memory of these `torch.UntypedStorage`s, with a stream of its own."""
    import torch

    stream = torch.cuda.Stream(device)

    @contextmanager
    def apart() -> Iterator[Any]:
        with torch.cuda.stream(stream):
            yield stream

    buffers = [torch.empty(0, dtype=torch.uint8, device=device).set_(storage) for storage in storages]
    return DeviceMemory(buffers, apart)


def pinned(buffers: int) -> list[Any]:
    """Staging for so many writes at once."""
    import torch

    return [torch.empty(STAGING_BYTES, dtype=torch.uint8, pin_memory=True) for _ in range(buffers)]
