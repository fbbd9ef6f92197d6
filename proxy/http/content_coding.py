"""Compressed bodies (`Content-Encoding`): gzip, deflate and zstd, undone in pieces, within what a plain body may have.

OpenAI's Codex sends zstd, other clients gzip; plain vLLM takes the compressed bytes for text and refuses them. A bomb
ends at the bound on bodies, with what that bound allows in memory. Each step of a body that was compressed more than
once has the same bound, and so has the number of frames in it: an empty one costs time and adds no bytes.
"""

import asyncio
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol

from backports import zstd

from proxy.errors import BadRequest, BodyTooLarge, UnsupportedCoding

PIECE_BYTES = 65536
MOST_FRAMES = 4096  # a parallel compressor writes one for each 64 KiB or more
MOST_CODINGS = 3
_LARGEST_WINDOW = 27  # log2 of bytes, zstd's own default


class _Decompressor(Protocol):
    """As bz2, lzma and zstd have it. needs_input: there is no more output without more input."""

    @property
    def needs_input(self) -> bool: ...
    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int) -> bytes: ...


class _Inflate:
    """zlib's decompressor with the interface of the others."""

    def __init__(self, window_bits: int | None) -> None:
        """Args: window_bits: as zlib takes them; None: zlib's format or, as some clients send it, without its head."""
        self._window_bits = window_bits
        self._zlib: zlib._Decompress | None = None
        self.needs_input = True
        self.eof = False
        self.unused_data = b""

    def decompress(self, data: bytes, max_length: int) -> bytes:
        if self._zlib is None:
            self._zlib = zlib.decompressobj(self._window_bits or _window_bits_of_deflate(data))
        piece = self._zlib.decompress(self._zlib.unconsumed_tail + data, max_length)
        self.needs_input = not self._zlib.unconsumed_tail and len(piece) < max_length
        self.eof = self._zlib.eof
        self.unused_data = self._zlib.unused_data
        return piece


def _window_bits_of_deflate(data: bytes) -> int:
    """The low half of zlib's first byte is 8. A raw stream's would be a block that no compressor begins with."""
    return zlib.MAX_WBITS if data[0] & 0x0F == zlib.DEFLATED else -zlib.MAX_WBITS


def _inflate_gzip(most: int | None) -> _Decompressor:
    return _Inflate(16 + zlib.MAX_WBITS)


def _inflate_deflate(most: int | None) -> _Decompressor:
    return _Inflate(None)


def _zstd(most: int | None) -> _Decompressor:
    """The window that a frame asks for is memory too, and none larger than the body is of use."""
    largest = _LARGEST_WINDOW if most is None else min(max(most.bit_length(), 10), _LARGEST_WINDOW)
    return zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: largest})


CODINGS: dict[str, Callable[[int | None], _Decompressor]] = {
    "gzip": _inflate_gzip,
    "deflate": _inflate_deflate,
    "zstd": _zstd,
}
ALIASES = {"x-gzip": "gzip"}  # RFC 9110


class _Step:
    """Undoes one coding; a body may be several frames one after the other."""

    def __init__(self, coding: str, most: int | None) -> None:
        self._coding = coding
        self._most = most
        self._made = 0
        self._frames = 0
        self._frame: _Decompressor | None = None

    def pieces(self, data: bytes) -> Iterator[bytes]:
        """Raises: BadRequest; BodyTooLarge."""
        while data or (self._frame is not None and not self._frame.needs_input):
            frame = self._frame or self._next_frame()
            try:
                piece = frame.decompress(data, PIECE_BYTES)
            except (zlib.error, zstd.ZstdError) as error:
                raise BadRequest(f"The body is not valid {self._coding}, as Content-Encoding says: {error}.") from error
            data = frame.unused_data if frame.eof else b""
            self._frame = None if frame.eof else frame
            self._made += len(piece)
            if self._most is not None and self._made > self._most:
                raise BodyTooLarge(self._most)
            if piece:
                yield piece

    def end(self) -> None:
        """Raises: BadRequest: there should be more."""
        if self._frame is not None or not self._frames:
            raise BadRequest(f"The body ends in the middle of its {self._coding} data.")

    def _next_frame(self) -> _Decompressor:
        self._frames += 1
        if self._frames > MOST_FRAMES:
            raise BadRequest(f"The body has more than {MOST_FRAMES} frames of {self._coding}.")
        return CODINGS[self._coding](self._most)


def codings_of(headers: Iterable[tuple[bytes, bytes]]) -> list[str]:
    """The codings in the order in which they were applied, of all lines; none for a body that is as it is.

    Raises: UnsupportedCoding.
    """
    header = ", ".join(value.decode("latin-1") for name, value in headers if name == b"content-encoding")
    named = [name for part in header.split(",") if (name := part.strip().lower())]
    codings = [ALIASES.get(name, name) for name in named if name != "identity"]
    if len(codings) > MOST_CODINGS or not all(coding in CODINGS for coding in codings):
        raise UnsupportedCoding(header, tuple(CODINGS))
    return codings


async def decoded(raw: bytes, codings: Sequence[str], most: int | None, hold: Callable[[int], None]) -> bytes:
    """The body as it was before the client compressed it. Other requests go on between its pieces.

    Args: codings: from `codings_of`. most: bytes that it may have. hold: is told of the bytes of each piece before the
    next is made, and may refuse.
    Raises: BadRequest: not in this coding, or cut off; BodyTooLarge; what `hold` raises.
    """
    steps = [_Step(coding, most) for coding in reversed(codings)]
    pieces: list[bytes] = []
    for begin in range(0, len(raw), PIECE_BYTES):
        for piece in _through(steps, raw[begin : begin + PIECE_BYTES]):
            hold(len(piece))
            pieces.append(piece)
            if len(piece) == PIECE_BYTES:
                await asyncio.sleep(0)
    for step in steps:
        step.end()
    return b"".join(pieces)


def _through(steps: Sequence[_Step], data: bytes) -> Iterator[bytes]:
    if not steps:
        yield data
        return
    for piece in steps[0].pieces(data):
        yield from _through(steps[1:], piece)
