"""Compressed bodies, decoded within limits.

Knows: the content codings of RFC 9110 section 8.4.1, zstd (RFC 8878) and br (RFC 7932). Refuses to
know: where a body comes from, and what it holds.

What a few bytes can become has no bound in any of them, so every step has a limit.
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Callable, Sequence
from typing import Protocol

import brotli
import zstandard

CODINGS = ("gzip", "deflate", "zstd", "br")
"""What is taken, in the words of ``accept-encoding``."""

MAX_LAYERS = 3
"""Codings that may lie over one another. No client has a reason for more than one."""

MAX_WINDOW = 8 * 1024 * 1024
"""The memory that a zstd frame may ask its decoder for (what RFC 8878 section 3.1.1.1.2
recommends to support)."""


class BadCoding(ValueError):
    """The data is not in the coding it is said to be in, or not whole."""


class UnknownCoding(ValueError):
    """A coding that is not taken."""


class Decoder(Protocol):
    def read(self, most: int) -> bytes:
        """At most `most` bytes more; none at the end. Raises `BadCoding`. Data that ends before its
        end mark is not whole."""


def read_codings(values: Sequence[bytes]) -> list[str]:
    """The codings of ``content-encoding`` headers, in the order in which they were applied.

    Raises `UnknownCoding`.
    """
    names = [name.strip().lower() for value in values for name in value.split(b",")]
    codings = [name.decode("latin-1").removeprefix("x-") for name in names if name]
    codings = [name for name in codings if name != "identity"]
    for name in codings:
        if name not in CODINGS:
            raise UnknownCoding(name)
    if len(codings) > MAX_LAYERS:
        raise UnknownCoding(", ".join(codings))
    return codings


def open_decoder(coding: str, data: bytes | bytearray) -> Decoder:
    return _DECODERS[coding](bytes(data))


class _Zlib:
    """gzip, of one or several members, and zlib; ``deflate`` is also spoken without its wrapper
    (RFC 9110 section 8.4.1.2 notes it)."""

    def __init__(self, data: bytes, window: int) -> None:
        self._rest = data
        self._window = window
        self._object = zlib.decompressobj(window)

    def read(self, most: int) -> bytes:
        try:
            while True:
                if self._object.eof:
                    self._rest = self._object.unused_data
                    if not self._rest:
                        return b""
                    if self._window != _GZIP:
                        raise BadCoding("there is more behind its end")
                    self._object = zlib.decompressobj(self._window)
                piece = self._object.decompress(self._rest, most)
                self._rest = self._object.unconsumed_tail
                if piece:
                    return piece
                if not self._object.eof and not self._rest:
                    raise BadCoding("it ends too soon")
        except zlib.error as error:
            raise BadCoding(str(error)) from None


_GZIP = 16 + zlib.MAX_WBITS


def _deflate(data: bytes) -> Decoder:
    # RFC 1950: the lower four bits of the first byte say deflate, and two bytes are a multiple.
    wrapped = len(data) > 1 and data[0] & 15 == 8 and (data[0] * 256 + data[1]) % 31 == 0
    return _Zlib(data, zlib.MAX_WBITS if wrapped else -zlib.MAX_WBITS)


class _Zstd:
    def __init__(self, data: bytes) -> None:
        made = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW)
        self._reader = made.stream_reader(io.BytesIO(data), read_across_frames=True)
        self._whole = _zstd_is_whole(data)

    def read(self, most: int) -> bytes:
        try:
            piece: bytes = self._reader.read(most)
        except zstandard.ZstdError as error:
            raise BadCoding(str(error)) from None
        if not piece and not self._whole:
            raise BadCoding("it ends too soon")
        return piece


def _zstd_is_whole(data: bytes) -> bool:
    """Whether the last frame has its end, which the library's reader does not ask. Walks over the
    heads of blocks (RFC 8878 section 3.1), and decodes none."""
    at, blocks = 0, 0
    while at < len(data):
        magic = int.from_bytes(data[at : at + 4], "little")
        if magic & 0xFFFFFFF0 == 0x184D2A50:  # a skippable frame
            at += 8 + int.from_bytes(data[at + 4 : at + 8], "little")
            continue
        flags = data[at + 4] if at + 4 < len(data) else 0
        single, checksum = flags >> 5 & 1, flags >> 2 & 1
        size_bytes = (1 if single else 0, 2, 4, 8)[flags >> 6]
        at += 5 + (not single) + (0, 1, 2, 4)[flags & 3] + size_bytes
        last = False
        while not last:
            blocks += 1
            if at + 3 > len(data) or blocks > len(data) // 64 + 1000:  # of nothing, that is
                return False
            head = int.from_bytes(data[at : at + 3], "little")
            last = bool(head & 1)
            at += 3 + (1 if head >> 1 & 3 == 1 else head >> 3)
        at += 4 * checksum
    return at == len(data)


class _Brotli:
    def __init__(self, data: bytes) -> None:
        self._rest = data
        self._object = brotli.Decompressor()

    def read(self, most: int) -> bytes:
        try:
            while not self._object.is_finished():
                given, self._rest = self._rest, b""
                piece: bytes = self._object.process(given, output_buffer_limit=most)
                if piece:
                    return piece
                if not given and self._object.can_accept_more_data():
                    raise BadCoding("it ends too soon")
        except brotli.error as error:
            raise BadCoding(str(error)) from None
        return b""


_DECODERS: dict[str, Callable[[bytes], Decoder]] = {
    "gzip": lambda data: _Zlib(data, _GZIP),
    "deflate": _deflate,
    "zstd": _Zstd,
    "br": _Brotli,
}
