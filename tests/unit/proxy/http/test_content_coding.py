"""Compressed bodies: what is undone, what is refused, and that a bomb costs no more than the bound on bodies."""

import gzip
import zlib
from collections.abc import Callable

import psutil
import pytest
from backports import zstd
from hypothesis import given
from hypothesis import strategies as st

from proxy.errors import BadRequest, BodyTooLarge, TooBusy, UnsupportedCoding
from proxy.http.content_coding import MOST_FRAMES, codings_of, decoded

MEBIBYTE = 1 << 20
BODY = b'{"model": "m", "prompt": "San Francisco is a"}'


def raw_deflate(data: bytes) -> bytes:
    compressor = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return compressor.compress(data) + compressor.flush()


COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "x-gzip": gzip.compress,
    "GZip": gzip.compress,
    "deflate": zlib.compress,
    " deflate ": raw_deflate,
    "zstd": zstd.compress,
    "identity": bytes,
    "": bytes,
}


def applied(*headers: str) -> list[str]:
    return codings_of([(b"content-encoding", header.encode()) for header in headers])


async def undone(raw: bytes, *headers: str, most: int | None = MEBIBYTE) -> bytes:
    return await decoded(raw, applied(*headers), most, lambda size: None)


@pytest.mark.parametrize("coding", COMPRESS)
async def test_each_coding(coding: str) -> None:
    assert await undone(COMPRESS[coding](BODY), coding) == BODY


@given(st.binary(max_size=300_000) | st.integers(0, MEBIBYTE).map(bytes), st.sampled_from([*COMPRESS]))
async def test_whatever_the_bytes_are(body: bytes, coding: str) -> None:
    assert await undone(COMPRESS[coding](body), coding) == body


@pytest.mark.parametrize("headers", [("gzip, zstd",), ("gzip", "zstd"), ("identity,gzip , ,zstd",)])
async def test_several_codings_are_undone_from_the_last_to_the_first(headers: tuple[str, ...]) -> None:
    assert await undone(zstd.compress(gzip.compress(BODY)), *headers) == BODY


@pytest.mark.parametrize("coding", ["gzip", "deflate", "zstd"])
async def test_frames_one_after_the_other_are_one_body(coding: str) -> None:
    frames = b"".join(COMPRESS[coding](piece) for piece in (BODY[:9], b"", BODY[9:]))
    assert await undone(frames, coding) == BODY


@pytest.mark.parametrize("header", ["br", "gzip, br", "compress", "gzip;q=1", "gzip zstd", "gzip, gzip, gzip, gzip"])
def test_an_unknown_coding_is_named_with_those_that_are_known(header: str) -> None:
    with pytest.raises(UnsupportedCoding) as refusal:
        applied(header)
    assert str(refusal.value) == f"Content-Encoding: {header!r}: expected gzip, deflate, zstd or identity."
    assert refusal.value.known == "gzip, deflate, zstd"


@pytest.mark.parametrize("coding", ["gzip", "deflate", "zstd"])
@pytest.mark.parametrize("frames", [1, 2])
async def test_a_body_that_is_cut_off(coding: str, frames: int) -> None:
    whole = frames * COMPRESS[coding](BODY)
    for length in range(len(whole) // frames * (frames - 1) + 1, len(whole)):
        with pytest.raises(BadRequest, match=f"in the middle of its {coding} data"):
            await undone(whole[:length], coding)
    with pytest.raises(BadRequest, match=f"in the middle of its {coding} data"):
        await undone(b"", coding)


@pytest.mark.parametrize("coding", ["gzip", "deflate", "zstd"])
@pytest.mark.parametrize(
    "spoil", [lambda whole: BODY, lambda whole: whole + b"\xff\xff", lambda whole: whole[:-4] + b"\0\0\0\0"]
)
async def test_a_body_that_is_something_else(coding: str, spoil: Callable[[bytes], bytes]) -> None:
    compressed = COMPRESS[coding](BODY)
    if coding == "zstd":  # whose checksum is an option
        options = {int(zstd.CompressionParameter.checksum_flag): 1}
        compressed = zstd.compress(BODY, options=options)
    with pytest.raises(BadRequest, match=f"is not valid {coding}, as Content-Encoding says: "):
        await undone(spoil(compressed), coding)


@pytest.mark.parametrize("coding", ["gzip", "deflate", "zstd"])
async def test_the_bound_is_on_what_comes_out(coding: str) -> None:
    assert len(await undone(COMPRESS[coding](bytes(5000)), coding, most=5000)) == 5000
    with pytest.raises(BodyTooLarge, match="larger than 4999 bytes"):
        await undone(COMPRESS[coding](bytes(5000)), coding, most=4999)


def gibibyte_of_zeros(coding: str) -> bytes:
    """About a megabyte of gzip, or some ten kilobytes of zstd. Its end is never looked at, and so is not right."""
    if coding == "zstd":
        compressor = zstd.ZstdCompressor()
        return b"".join(compressor.compress(bytes(MEBIBYTE)) for _ in range(1024)) + compressor.flush()
    gzip_compressor = zlib.compressobj(9, wbits=16 + zlib.MAX_WBITS)
    first, *others = (
        gzip_compressor.compress(bytes(MEBIBYTE)) + gzip_compressor.flush(zlib.Z_FULL_FLUSH) for _ in range(2)
    )
    return first + 1023 * others[0]


@pytest.mark.parametrize("coding", ["gzip", "zstd"])
async def test_a_bomb_costs_no_more_memory_than_a_body_may(coding: str) -> None:
    bomb, process, most = gibibyte_of_zeros(coding), psutil.Process(), 8 * MEBIBYTE
    assert len(bomb) < 2 * MEBIBYTE
    before, highest = process.memory_info().rss, 0

    def hold(size: int) -> None:
        nonlocal highest
        highest = max(highest, process.memory_info().rss)

    with pytest.raises(BodyTooLarge):
        await decoded(bomb, [coding], most, hold)
    assert before <= highest < before + 4 * most


@pytest.mark.parametrize("coding", ["gzip", "zstd"])
async def test_a_bomb_in_a_bomb_ends_at_the_same_bound(coding: str) -> None:
    """What is between has the bound too: it can be large and come to nothing, like stored blocks of no bytes."""
    nothing = b"\x78\x9c" + MEBIBYTE * b"\0\0\0\xff\xff"
    with pytest.raises(BodyTooLarge):
        await undone(COMPRESS[coding](nothing), f"deflate, {coding}")


@pytest.mark.parametrize("coding", ["gzip", "zstd"])
async def test_frames_of_nothing_have_a_bound(coding: str) -> None:
    with pytest.raises(BadRequest, match=f"more than {MOST_FRAMES} frames of {coding}"):
        await undone((MOST_FRAMES + 1) * COMPRESS[coding](b""), coding)


async def test_a_window_larger_than_a_body_may_be_is_refused_before_it_is_made() -> None:
    options = {int(zstd.CompressionParameter.window_log): 27}
    compressor = zstd.ZstdCompressor(options=options)
    wide = compressor.compress(BODY) + compressor.flush()
    with pytest.raises(BadRequest, match="is not valid zstd"):
        await undone(wide, "zstd")
    assert await undone(wide, "zstd", most=128 * MEBIBYTE) == BODY


async def test_each_piece_is_held_before_the_next_is_made() -> None:
    held = 0

    def hold(size: int) -> None:
        nonlocal held
        held += size
        if held > MEBIBYTE:
            raise TooBusy("Too many.", 5)

    with pytest.raises(TooBusy):
        await decoded(gzip.compress(bytes(8 * MEBIBYTE)), ["gzip"], None, hold)
    assert held < MEBIBYTE + 100_000
