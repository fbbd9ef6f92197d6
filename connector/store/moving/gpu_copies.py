"""Copies between a GPU's KV cache and pinned host memory, for `ways.py`; vLLM's worker processes alone import this."""

from collections.abc import Callable, Sequence

import torch
from vllm import _custom_ops as ops

from connector.store.moving.ways import PART_BYTES, Area, Staged

AREAS = 3


class GpuCopies:
    """On a stream of their own, which the forward pass does not wait for."""

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device)
        self._before: torch.cuda.Event | None = None

    def follow(self) -> None:
        """Copies that begin from now on come behind all that has been enqueued on the current stream.

        A step that is still under way may write a last token of a request that has ended meanwhile, into a block that a
        load has got since.
        """
        event = torch.cuda.Event()
        event.record()
        self._before = event

    def begin(self, sources: Sequence[int], targets: Sequence[int], sizes: Sequence[int]) -> Callable[[], None]:
        if not sizes:
            return lambda: None
        columns = [torch.tensor(each, dtype=torch.int64) for each in (sources, targets, sizes)]
        with torch.cuda.stream(self._stream):
            if self._before is not None:
                self._stream.wait_event(self._before)
            ops.swap_blocks_batch(*columns)
            event = torch.cuda.Event()
            event.record()

        def end() -> None:
            event.synchronize()

        return end


def staged(copies: GpuCopies) -> tuple[Staged, torch.Tensor]:
    """And the pinned memory, which has to live as long."""
    memory = torch.empty(AREAS * PART_BYTES, dtype=torch.uint8, pin_memory=True)
    areas = [Area(memory.data_ptr() + index * PART_BYTES) for index in range(AREAS)]
    return Staged(areas[:-1], areas[-1], copies), memory
