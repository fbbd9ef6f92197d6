"""A digest of one file of weights: equal for equal content wherever it lies, other when the weights are others.

Reading all of a large model would take as long as loading it, so the digest is of samples, spread evenly over every
tensor: those of a fine-tuned or scaled model differ everywhere. Somebody who changes a few single weights is not
noticed. A file that does not say where its tensors lie counts as PARTS of equal size; where it is a zip archive, as
torch makes them, the checksums in its table of contents belong to the digest as well.
"""

import hashlib
import itertools
import json
import os
import zipfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

SAMPLES = 8  # of each tensor
SAMPLE_BYTES = 1024
PARTS = 1024
READERS = 8  # a network's or a disk's latency is what a large model takes
LARGEST_CONTENTS = 100_000_000  # bytes, as the format says


class Part(NamedTuple):
    """A tensor, or another part of a file: what is known of it without its content, and where that lies, in bytes."""

    name: str
    start: int
    length: int


def digest_of(file: Path) -> str:
    """Made once for a file as it is: looking again costs no more than its `stat`.

    Raises: OSError: it cannot be read.
    """
    found = file.stat()
    return _digest(str(file), found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


@lru_cache(maxsize=4096)
def _digest(file: str, inode: int, size: int, modified: int, changed: int) -> str:
    digest = hashlib.blake2b(digest_size=16)
    with Path(file).open("rb", buffering=0) as opened, ThreadPoolExecutor(READERS) as readers:
        handle = opened.fileno()
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_RANDOM)  # or the kernel reads a hundred times as much
        parts = sorted(_tensors(handle, size) or [*_archived(file), *_equal_parts(size)])
        shares = [parts[first::READERS] for first in range(READERS)]
        contents = dict(pair for found in readers.map(lambda share: _sampled(handle, share), shares) for pair in found)
    for part in parts:
        digest.update(f"{part.name} {part.length}\0".encode())
        digest.update(contents[part])
    return digest.hexdigest()


def _sampled(handle: int, parts: Sequence[Part]) -> list[tuple[Part, bytes]]:
    return [(part, b"".join(os.pread(handle, n, at) for at, n in _samples(part))) for part in parts]


def _samples(part: Part) -> list[tuple[int, int]]:
    """Offset and length of each, the part's first and last bytes among them; all of a small part."""
    if part.length <= SAMPLES * SAMPLE_BYTES:
        return [(part.start, part.length)]
    room = part.length - SAMPLE_BYTES
    return [(part.start + room * number // (SAMPLES - 1), SAMPLE_BYTES) for number in range(SAMPLES)]


def _tensors(handle: int, size: int) -> list[Part]:
    """As the table of contents of a safetensors file lists them; none for another file.

    Where they lie in the file, and what is noted beside them, is not theirs.
    """
    length = int.from_bytes(os.pread(handle, 8, 0), "little")
    if not 0 < length <= min(size - 8, LARGEST_CONTENTS):
        return []
    try:
        contents = dict(json.loads(os.pread(handle, length, 8)))
        contents.pop("__metadata__", None)
        return [
            Part(f"{name} {tensor['dtype']} {tensor['shape']}", 8 + length + start, end - start)
            for name, tensor in contents.items()
            for start, end in [tensor["data_offsets"]]
        ]
    except (ValueError, TypeError, KeyError):
        return []


def _archived(file: str) -> list[Part]:
    """The files in an archive with their checksums, without the folder, which torch names after the archive."""
    try:
        with zipfile.ZipFile(file) as archive:
            inside = archive.infolist()
    except (zipfile.BadZipFile, OSError):
        return []
    return [Part(f"{each.filename.partition('/')[2]} {each.CRC:08x} {each.file_size}", 0, 0) for each in inside]


def _equal_parts(size: int) -> list[Part]:
    bounds = [size * number // PARTS for number in range(PARTS + 1)]
    ranges = itertools.pairwise(bounds)
    return [Part(f"{number:05}", start, end - start) for number, (start, end) in enumerate(ranges)]
