"""Saves and loads through host memory, with memory and copies of this process in the place of a GPU's."""

import ctypes
from collections.abc import Callable, Iterator, Sequence

import pytest

from connector.store.moving import ways
from connector.store.moving.ways import Area, Direct, Staged

PART = 720
KEYS, LAYERS, BYTES = 7, 5, 64  # with the sizes of `layout` three keys fit into a part


class Memory:
    def __init__(self, content: bytes) -> None:
        self._buffer = ctypes.create_string_buffer(content, len(content))
        self.address = ctypes.addressof(self._buffer)

    @property
    def content(self) -> bytes:
        return self._buffer.raw


class LateCopies:
    """Copies when they are waited for, and not before."""

    def __init__(self) -> None:
        self.waiting = 0

    def begin(self, sources: Sequence[int], targets: Sequence[int], sizes: Sequence[int]) -> Callable[[], None]:
        self.waiting += 1
        pieces = list(zip(sources, targets, sizes, strict=True))

        def end() -> None:
            self.waiting -= bool(pieces)
            while pieces:
                source, target, size = pieces.pop()
                ctypes.memmove(target, source, size)

        return end


class Store:
    """Mooncake's client, to whom a value is what lies in its buffers, one behind the other."""

    def __init__(self) -> None:
        self.values: dict[int, bytes] = {}
        self.pieces: list[int] = []  # of each move
        self.fails: set[int] = set()

    def put(self, part: slice, buffers: Sequence[Sequence[int]], sizes: Sequence[Sequence[int]]) -> list[int]:
        return self._move(part, buffers, sizes, self._take)

    def get(self, part: slice, buffers: Sequence[Sequence[int]], sizes: Sequence[Sequence[int]]) -> list[int]:
        return self._move(part, buffers, sizes, self._give)

    def _move(
        self,
        part: slice,
        buffers: Sequence[Sequence[int]],
        sizes: Sequence[Sequence[int]],
        one: Callable[[int, Sequence[int], Sequence[int]], None],
    ) -> list[int]:
        self.pieces.append(sum(map(len, buffers)))
        keys = range(KEYS)[part]
        for key, addresses, lengths in zip(keys, buffers, sizes, strict=True):
            if key not in self.fails:
                one(key, addresses, lengths)
        return [-800 if key in self.fails else sum(lengths) for key, lengths in zip(keys, sizes, strict=True)]

    def _take(self, key: int, addresses: Sequence[int], lengths: Sequence[int]) -> None:
        self.values[key] = b"".join(map(ctypes.string_at, addresses, lengths))

    def _give(self, key: int, addresses: Sequence[int], lengths: Sequence[int]) -> None:
        value, begin = self.values[key], 0
        for address, length in zip(addresses, lengths, strict=True):
            ctypes.memmove(address, value[begin : begin + length], length)
            begin += length


@pytest.fixture
def staging(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Staged, LateCopies]]:
    monkeypatch.setattr(ways, "PART_BYTES", PART)
    memory, copies = Memory(bytes(3 * PART)), LateCopies()
    areas = [Area(memory.address + index * PART) for index in range(3)]
    yield Staged(areas[:2], areas[2], copies), copies
    del memory


def layout(cache: Memory) -> tuple[list[list[int]], list[list[int]]]:
    """Layers outermost, as a KV cache may have them: a key's buffers lie apart. Of unequal sizes."""
    sizes = [BYTES - 8 * layer for layer in range(LAYERS)]
    buffers = [[cache.address + (layer * KEYS + key) * BYTES for layer in range(LAYERS)] for key in range(KEYS)]
    return buffers, [sizes] * KEYS


def numbered() -> bytes:
    return b"".join(number.to_bytes(4, "little") for number in range(KEYS * LAYERS * BYTES // 4))


def bytes_of(content: bytes, key: int) -> list[bytes]:
    starts = [(layer * KEYS + key) * BYTES for layer in range(LAYERS)]
    return [content[start : start + BYTES - 8 * layer] for layer, start in enumerate(starts)]


def test_what_is_saved_and_loaded_through_host_memory_is_what_direct_ways_move(
    staging: tuple[Staged, LateCopies],
) -> None:
    staged, copies = staging
    saved, store, direct = Memory(numbered()), Store(), Store()
    size = sum(layout(saved)[1][0])
    assert staged.save(store.put, *layout(saved)) == [size] * KEYS
    assert Direct().save(direct.put, *layout(saved)) == [size] * KEYS
    assert store.values == direct.values
    assert (store.pieces, direct.pieces) == ([3, 3, 1], [KEYS * LAYERS]), "a key is one piece"

    loaded = Memory(bytes(KEYS * LAYERS * BYTES))
    assert staged.load(store.get, *layout(loaded)) == [size] * KEYS
    assert [bytes_of(loaded.content, key) for key in range(KEYS)] == [bytes_of(numbered(), key) for key in range(KEYS)]
    assert copies.waiting == 0, "nothing is copied once a load has returned"


def test_of_a_load_that_fails_what_has_arrived_is_copied_and_no_more_is_asked_for(
    staging: tuple[Staged, LateCopies],
) -> None:
    staged, copies = staging
    saved, store = Memory(numbered()), Store()
    staged.save(store.put, *layout(saved))
    store.fails, store.pieces = {4}, []
    loaded = Memory(bytes(KEYS * LAYERS * BYTES))

    found = staged.load(store.get, *layout(loaded))

    assert [result >= 0 for result in found] == [True] * 4 + [False, True, False]
    assert store.pieces == [3, 3]
    for key in range(KEYS):
        arrived = bytes_of(numbered() if key in (0, 1, 2, 3, 5) else bytes(len(numbered())), key)
        assert bytes_of(loaded.content, key) == arrived
    assert copies.waiting == 0


def test_nothing_is_copied_any_more_when_mooncake_raises(staging: tuple[Staged, LateCopies]) -> None:
    staged, copies = staging
    saved, store = Memory(numbered()), Store()
    staged.save(store.put, *layout(saved))
    moves, loaded = iter([store.get]), Memory(bytes(KEYS * LAYERS * BYTES))

    with pytest.raises(StopIteration):
        staged.load(lambda *part: next(moves)(*part), *layout(loaded))
    assert copies.waiting == 0


def test_a_block_that_is_larger_than_a_part_goes_directly(
    staging: tuple[Staged, LateCopies], monkeypatch: pytest.MonkeyPatch
) -> None:
    staged, _ = staging
    monkeypatch.setattr(ways, "PART_BYTES", BYTES)
    saved, store = Memory(numbered()), Store()
    staged.save(store.put, *layout(saved))
    loaded = Memory(bytes(KEYS * LAYERS * BYTES))
    staged.load(store.get, *layout(loaded))
    assert store.pieces == [KEYS * LAYERS] * 2
    assert bytes_of(loaded.content, 3) == bytes_of(numbered(), 3)
