import ctypes
import random
import zlib
from array import array
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from connector.cache.heads import Source
from connector.control.messages import GroupBlocks
from connector.mooncake import checksum
from connector.mooncake.checksum import LayerChecksums, checksum_of_registered
from connector.mooncake.device_memory import DeviceMemory
from connector.mooncake.rank_cache import HostMemory, Memory
from tests.unit.connector.fake_layouts import MEMORY_BYTES, MIXED_TARGET
from tests.unit.connector.fakes import ArrayMemory, registrations

LAYERS, BLOCKS, LENGTH, STRIDE = 3, 6, 8, 11


class Cache:
    """A KV cache in this process's memory; `table[i]` is the block of the prompt's block `i`."""

    def __init__(self, stride: int = STRIDE, table: Sequence[int] = range(BLOCKS)) -> None:
        self.stride, self.table = stride, list(table)
        self.bytes = bytearray(LAYERS * BLOCKS * stride)
        self.start = ctypes.addressof(ctypes.c_char.from_buffer(self.bytes))

    def offset(self, layer: int, block: int) -> int:
        return (layer * BLOCKS + self.table[block]) * self.stride

    def fill(self, content: bytes) -> None:
        for layer in range(LAYERS):
            for block in range(BLOCKS):
                part = (layer * BLOCKS + block) * LENGTH
                self.bytes[self.offset(layer, block) : self.offset(layer, block) + LENGTH] = content[
                    part : part + LENGTH
                ]

    def addresses(self, layer: int, start: int, stop: int) -> Iterator[int]:
        return (self.start + self.offset(layer, block) for block in range(start, stop))

    def value(self, memory: Memory | None = None) -> int:
        """Layer after layer, each at once, as a consumer does."""
        sums = LayerChecksums(LAYERS)
        for layer in range(LAYERS):
            sums.add(layer, memory or HostMemory(), self.addresses(layer, 0, BLOCKS), LENGTH)
        return sums.value()


Apart = tuple[Callable[[], AbstractContextManager[None]], list[str]]

contents = st.binary(min_size=LAYERS * BLOCKS * LENGTH, max_size=LAYERS * BLOCKS * LENGTH)
tables = st.permutations(range(BLOCKS))


@given(contents, tables, tables, st.lists(st.tuples(st.integers(0, LAYERS - 1), st.integers(1, BLOCKS)), max_size=20))
def test_any_split_and_interleaving_on_either_side_gives_the_same(
    content: bytes, here: list[int], there: list[int], steps: list[tuple[int, int]]
) -> None:
    producer, consumer = Cache(STRIDE, here), Cache(LENGTH, there)
    producer.fill(content)
    consumer.fill(content)
    sums, sent = LayerChecksums(LAYERS), [0] * LAYERS
    for layer, blocks in [*steps, *((layer, BLOCKS) for layer in range(LAYERS))]:
        stop = min(sent[layer] + blocks, BLOCKS)
        sums.add(layer, HostMemory(), producer.addresses(layer, sent[layer], stop), LENGTH)
        sent[layer] = stop
    assert sums.value() == consumer.value()


@given(contents, tables, st.integers(0, LAYERS - 1), st.integers(0, BLOCKS * LENGTH - 1), st.integers(1, 255))
def test_one_other_byte_changes_it(content: bytes, table: list[int], layer: int, place: int, change: int) -> None:
    cache = Cache(table=table)
    cache.fill(content)
    before = cache.value()
    cache.bytes[cache.offset(layer, place // LENGTH) + place % LENGTH] ^= change
    assert cache.value() != before


def swap(content: bytes, unit: int) -> bytes:
    return content[unit : 2 * unit] + content[:unit] + content[2 * unit :]


@pytest.mark.parametrize("unit", [LENGTH, BLOCKS * LENGTH], ids=["two blocks", "two layers"])
def test_what_lies_in_the_wrong_place_changes_it(unit: int) -> None:
    content = random.Random(unit).randbytes(LAYERS * BLOCKS * LENGTH)
    right, wrong = Cache(), Cache()
    right.fill(content)
    wrong.fill(swap(content, unit))
    assert right.value() != wrong.value()


def test_bytes_between_the_blocks_do_not_matter() -> None:
    cache = Cache(STRIDE)
    before = cache.value()
    cache.bytes[LENGTH] ^= 0xFF
    assert cache.value() == before


class CountingMemory(HostMemory):
    def __init__(self) -> None:
        self.reads: list[int] = []

    def read(self, address: int, length: int) -> memoryview:
        self.reads.append(length)
        return super().read(address, length)


@pytest.mark.parametrize(
    ("limit", "reads"),
    [(1 << 20, [2 * LENGTH, LENGTH, 3 * LENGTH]), (2 * LENGTH, [2 * LENGTH, LENGTH, 2 * LENGTH, LENGTH])],
)
def test_neighbours_are_read_at_once(monkeypatch: pytest.MonkeyPatch, limit: int, reads: list[int]) -> None:
    monkeypatch.setattr(checksum, "MAX_READ_BYTES", limit)
    cache, memory = Cache(LENGTH, [1, 2, 0, 3, 4, 5]), CountingMemory()
    LayerChecksums(LAYERS).add(0, memory, cache.addresses(0, 0, BLOCKS), LENGTH)
    assert memory.reads == reads


class FakeTensor:
    """What of a uint8 tensor on a GPU is needed: only a copy on the host has bytes that can be read."""

    def __init__(self, content: bytes, address: int, on_host: bool = False) -> None:
        self._content, self._address, self._on_host = content, address, on_host

    def data_ptr(self) -> int:
        return self._address

    def __len__(self) -> int:
        return len(self._content)

    def __getitem__(self, part: slice) -> "FakeTensor":
        return FakeTensor(self._content[part], self._address + part.start, self._on_host)

    def cpu(self) -> "FakeTensor":
        return FakeTensor(self._content, self._address, on_host=True)

    def numpy(self) -> bytes:
        assert self._on_host
        return self._content


@pytest.fixture
def apart() -> Apart:
    entered: list[str] = []

    @contextmanager
    def enter() -> Iterator[None]:
        entered.append("in")
        yield
        entered.append("out")

    return enter, entered


def test_a_device_s_memory_gives_the_same(apart: Apart) -> None:
    enter, entered = apart
    cache = Cache(LENGTH)
    cache.fill(random.Random(1).randbytes(LAYERS * BLOCKS * LENGTH))
    region = len(cache.bytes) // LAYERS
    parts = [
        FakeTensor(bytes(cache.bytes[start : start + region]), cache.start + start)
        for start in range(0, len(cache.bytes), region)
    ]
    memory = DeviceMemory(parts, enter)
    assert cache.value(memory) == cache.value()
    assert entered == ["in", "out"] * LAYERS


@pytest.mark.parametrize(("address", "length"), [(99, 2), (105, 6), (200, 1)])
def test_memory_that_was_not_registered_is_not_read(address: int, length: int) -> None:
    with pytest.raises(ValueError, match="in no registered region"):
        DeviceMemory([FakeTensor(b"0123456789", 100)], nullcontext).read(address, length)


def test_a_share_without_heads_is_the_same_on_both_sides() -> None:
    sums = LayerChecksums(LAYERS)
    sums.add(0, HostMemory(), [0, 0, 0], 0)
    assert sums.value() == LayerChecksums(LAYERS).value()


GROUPS = [GroupBlocks(0, [9, 4]), GroupBlocks(1, []), GroupBlocks(2, [5])]


def expected_of_registered(content: bytearray, heads: range) -> int:
    """Layer by layer as registered, from each block the bytes of those heads."""
    sums = []
    for layer in MIXED_TARGET.layers:
        asked = heads if layer.all_heads == 2 else range(1)
        parts = b""
        for block in GROUPS[layer.group].block_ids:
            start = layer.address + block * layer.block_stride + asked.start * layer.head_bytes
            parts += content[start : start + len(asked) * layer.head_bytes]
        sums.append(zlib.crc32(parts))
    return zlib.crc32(array("I", sums).tobytes())


@pytest.mark.parametrize("heads", [range(2), range(1), range(1, 2)], ids=str)
def test_what_was_registered_is_read_with_each_layer_s_blocks_and_heads(heads: range) -> None:
    content = bytearray(random.Random(3).randbytes(MEMORY_BYTES))
    asked = registrations("t", GROUPS, 10, [[Source(0, {2: heads, 1: range(1)}, 1)]], {}, MIXED_TARGET)[0][0]
    found = checksum_of_registered(ArrayMemory(content), MIXED_TARGET, asked)
    assert found == expected_of_registered(content, heads)


def test_the_layers_count_in_the_order_of_the_registration() -> None:
    """A producer may have only some of them."""
    content = bytearray(random.Random(3).randbytes(MEMORY_BYTES))
    whole = registrations("t", GROUPS, 10, [[Source(0, {2: range(2), 1: range(1)}, 1)]], {}, MIXED_TARGET)[0][0]
    turned = msgspec.structs.replace(whole, layers=whole.layers[::-1])
    fewer = msgspec.structs.replace(whole, layers=whole.layers[1:])
    found = {checksum_of_registered(ArrayMemory(content), MIXED_TARGET, asked) for asked in (whole, turned, fewer)}
    assert len(found) == 3
