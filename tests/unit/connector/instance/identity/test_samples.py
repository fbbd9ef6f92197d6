"""Digests of files of weights: equal for equal content, other for every kind of other content."""

import os
import pickle
import zipfile
from pathlib import Path

import pytest

from connector.instance.identity.samples import digest_of
from tests.unit.connector.instance.identity.made_models import safetensors, scaled, some_tensors

TENSORS = some_tensors()


def test_the_same_tensors_are_the_same_wherever_they_lie(tmp_path: Path) -> None:
    """In another folder, at another time, in another order and beside other notes."""
    one = safetensors(tmp_path / "one", TENSORS)
    other = safetensors(tmp_path / "other", dict(reversed(TENSORS.items())), metadata="another writer")
    os.utime(other, (1, 1))
    assert digest_of(one) == digest_of(other)


@pytest.mark.parametrize("name", TENSORS)
def test_one_tensor_that_is_larger_by_half_makes_another_file(tmp_path: Path, name: str) -> None:
    one = safetensors(tmp_path / "one", TENSORS)
    other = safetensors(tmp_path / "other", TENSORS | {name: scaled(TENSORS[name])})
    assert one.stat().st_size == other.stat().st_size
    assert digest_of(one) != digest_of(other)


@pytest.mark.parametrize("first", [number / 6 for number in range(6)])
def test_a_sixth_of_a_large_tensor_is_enough(tmp_path: Path, first: float) -> None:
    one = safetensors(tmp_path / "one", TENSORS)
    changed = TENSORS | {"embed": scaled(TENSORS["embed"], first, first + 1 / 6)}
    assert digest_of(one) != digest_of(safetensors(tmp_path / "other", changed))


def test_two_tensors_that_changed_places_make_another_file(tmp_path: Path) -> None:
    first, second = "layers.0.q_proj", "layers.1.q_proj"
    changed = TENSORS | {first: TENSORS[second], second: TENSORS[first]}
    one, other = safetensors(tmp_path / "one", TENSORS), safetensors(tmp_path / "other", changed)
    assert digest_of(one) != digest_of(other)


def archive(file: Path, tensors: dict[str, bytes]) -> Path:
    """As torch.save makes it: stored, in a folder that is called after the file."""
    with zipfile.ZipFile(file, "w") as made:
        for number, tensor in enumerate(tensors.values()):
            made.writestr(zipfile.ZipInfo(f"{file.stem}/data/{number}"), tensor)
    return file


def pickled(file: Path, tensors: dict[str, bytes]) -> Path:
    file.write_bytes(pickle.dumps(tensors))
    return file


@pytest.mark.parametrize("write", [archive, pickled])
@pytest.mark.parametrize("name", TENSORS)
def test_files_without_a_table_of_tensors(tmp_path: Path, name: str, write: object) -> None:
    assert callable(write)
    (tmp_path / "copy").mkdir()
    one, copy = write(tmp_path / "one.bin", TENSORS), write(tmp_path / "copy" / "one.bin", TENSORS)
    other = write(tmp_path / "other.bin", TENSORS | {name: scaled(TENSORS[name])})
    assert digest_of(one) == digest_of(copy) != digest_of(other)


@pytest.mark.parametrize("content", [b"", b"x", b"\x05\0\0\0\0\0\0\0[1,2]", b"\xff" * 9000, b"\x02\0\0\0\0\0\0\0{}"])
def test_what_is_no_weights_has_a_digest_too(tmp_path: Path, content: bytes) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    one.write_bytes(content)
    other.write_bytes(content + b"y")
    assert digest_of(one) != digest_of(other)


def test_a_file_that_was_written_again_is_read_again(tmp_path: Path) -> None:
    file = safetensors(tmp_path / "one", TENSORS)
    before = digest_of(file)
    at = file.stat()
    safetensors(file, TENSORS | {"norm": scaled(TENSORS["norm"])})
    os.utime(file, ns=(at.st_atime_ns, at.st_mtime_ns))
    assert digest_of(file) != before


def test_a_large_file_is_sampled_and_not_read(tmp_path: Path) -> None:
    """A sparse terabyte, of which a read of all would not end before the test does."""
    file = tmp_path / "large.gguf"
    with file.open("wb") as large:
        large.truncate(1 << 40)
    before = digest_of(file)
    with file.open("r+b") as large:
        large.seek((1 << 40) - 1)
        large.write(b"!")
    assert digest_of(file) != before


def test_one_value_of_an_archive_is_enough(tmp_path: Path) -> None:
    """Its table of contents has a checksum of each tensor."""
    tensors = {str(number): bytes(40_000) for number in range(400)}
    one = digest_of(archive(tmp_path / "one.bin", tensors))
    for number in ("50", "150", "250"):
        changed = tensors | {number: bytes(20_000) + b"\1" + bytes(19_999)}
        assert digest_of(archive(tmp_path / "other.bin", changed)) != one
