"""How many blocks requests hold only for a transfer, and since when: a transfer that never ends shows in it."""

import time
from collections.abc import Callable


class HeldBlocks:
    """Of one scheduler. Args: clock: of Unix seconds."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._held: dict[str, tuple[int, float]] = {}  # by request id, in the order in which they began

    def add(self, request_id: str, blocks: int) -> None:
        self._held[request_id] = blocks, self._clock()

    def remove(self, request_id: str) -> None:
        """Harmless where it holds none."""
        self._held.pop(request_id, None)

    @property
    def blocks(self) -> int:
        return sum(blocks for blocks, _ in self._held.values())

    @property
    def since(self) -> float:
        """When the oldest of them began, in Unix seconds; 0 while nothing is held."""
        return next((began for _, began in self._held.values()), 0.0)
