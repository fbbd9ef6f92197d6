"""How a save or a load moves between an instance's memory and Mooncake's client: directly, or through host memory.

Through pinned host memory where the KV cache is a GPU's. Mooncake's TCP transport takes each buffer, a layer of a
block, by itself, and copies it to or from the GPU with a synchronous copy on the default stream, which waits for the
forward pass there: on one H200 loads came with 2.3 GB/s. In host memory a block is one piece, and the GPU is told of
all copies of a part at once, on a stream of their own.
"""

import itertools
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from connector.store.moving.parts import in_parts

PART_BYTES = 64 << 20  # of one part of a load or save; a load has one on its way to the GPU while the next one arrives

# Moves the keys of a part from or to buffers: their addresses and sizes in bytes, of each key. Returns what Mooncake
# says of each key: negative where it has failed.
Move = Callable[[slice, Sequence[Sequence[int]], Sequence[Sequence[int]]], Sequence[int]]


class Way(Protocol):
    def load(self, move: Move, buffers: Sequence[Sequence[int]], sizes: Sequence[Sequence[int]]) -> list[int]: ...

    def save(self, move: Move, buffers: Sequence[Sequence[int]], sizes: Sequence[Sequence[int]]) -> list[int]: ...


class Direct:
    """Mooncake reads and writes the instance's memory itself."""

    def load(self, move: Move, buffers: Sequence[Sequence[int]], sizes: Sequence[Sequence[int]]) -> list[int]:
        return in_parts(lambda part: move(part, buffers[part], sizes[part]), sizes)

    save = load


class Copies(Protocol):
    """Of raw memory, between host and GPU."""

    def begin(self, sources: Sequence[int], targets: Sequence[int], sizes: Sequence[int]) -> Callable[[], None]:
        """The addresses and sizes in bytes of each copy; what is returned waits until all have ended."""


@dataclass
class Area:
    """Pinned host memory of PART_BYTES from `address` on."""

    address: int
    ended: Callable[[], None] = field(default=lambda: None)  # waits for the copies from here that were begun last

    def places(self, sizes: Sequence[Sequence[int]]) -> list[int]:
        """Where each key's bytes lie, one behind the other."""
        return list(itertools.accumulate(map(sum, sizes[:-1]), initial=self.address))


class Staged:
    """Through host memory: two areas for loads, of which it makes one at a time, and one for saves, likewise."""

    def __init__(self, for_loads: Sequence[Area], for_saves: Area, copies: Copies) -> None:
        self._for_loads = for_loads
        self._for_saves = for_saves
        self._copies = copies
        self._directly = Direct()
        self._loading, self._saving = threading.Lock(), threading.Lock()

    def load(self, move: Move, buffers: Sequence[Sequence[int]], sizes: Sequence[Sequence[int]]) -> list[int]:
        """Once it has returned nothing is copied to `buffers` any more."""
        if _too_large(sizes):
            return self._directly.load(move, buffers, sizes)
        areas = itertools.cycle(self._for_loads)

        def load_part(part: slice) -> Sequence[int]:
            area = next(areas)
            area.ended()
            places = area.places(sizes[part])
            results = move(part, [[place] for place in places], [[sum(of_key)] for of_key in sizes[part]])
            arrived = [key for key, result in enumerate(results) if result >= 0]
            area.ended = self._copies.begin(*_pieces(places, buffers[part], sizes[part], arrived))
            return results

        with self._loading:
            try:
                return in_parts(load_part, sizes, sum, PART_BYTES)
            finally:
                for area in self._for_loads:
                    area.ended()

    def save(self, move: Move, buffers: Sequence[Sequence[int]], sizes: Sequence[Sequence[int]]) -> list[int]:
        if _too_large(sizes):
            return self._directly.save(move, buffers, sizes)

        def save_part(part: slice) -> Sequence[int]:
            places = self._for_saves.places(sizes[part])
            staged, of_gpu, lengths = _pieces(places, buffers[part], sizes[part], range(len(places)))
            self._copies.begin(of_gpu, staged, lengths)()
            return move(part, [[place] for place in places], [[sum(of_key)] for of_key in sizes[part]])

        with self._saving:
            return in_parts(save_part, sizes, sum, PART_BYTES)


def _too_large(sizes: Sequence[Sequence[int]]) -> bool:
    return any(sum(of_key) > PART_BYTES for of_key in sizes)


def _pieces(
    places: Sequence[int], buffers: Sequence[Sequence[int]], sizes: Sequence[Sequence[int]], keys: Iterable[int]
) -> tuple[list[int], list[int], list[int]]:
    """Of each buffer of these keys: where it lies in host memory, its address, its size."""
    staged: list[int] = []
    addresses: list[int] = []
    lengths: list[int] = []
    for key in keys:
        staged += itertools.accumulate(sizes[key][:-1], initial=places[key])
        addresses += buffers[key]
        lengths += sizes[key]
    return staged, addresses, lengths
