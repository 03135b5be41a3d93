"""Compressed bodies: decoded within limits, and refused where they are not what they say."""

from __future__ import annotations

import gzip
import zlib

import brotli
import pytest
import zstandard

from ccapi.transport.http.content_coding import (
    CODINGS,
    BadCoding,
    UnknownCoding,
    open_decoder,
    read_codings,
)

TEXT = b"The quick brown fox. " * 1000


def encoded(coding: str, data: bytes) -> bytes:
    match coding:
        case "gzip":
            return gzip.compress(data)
        case "deflate":
            return zlib.compress(data)
        case "zstd":
            return zstandard.ZstdCompressor(write_checksum=True).compress(data)
        case _:
            made: bytes = brotli.compress(data)
            return made


def decoded(coding: str, data: bytes, step: int = 4096) -> bytes:
    decoder = open_decoder(coding, data)
    pieces = []
    while piece := decoder.read(step):
        pieces.append(piece)
    return b"".join(pieces)


@pytest.mark.parametrize("coding", CODINGS)
@pytest.mark.parametrize("data", [TEXT, b"", b"x", bytes(1_000_000)])
def test_every_coding_is_undone(coding: str, data: bytes) -> None:
    assert decoded(coding, encoded(coding, data)) == data


def test_deflate_without_its_wrapper() -> None:
    raw = zlib.compressobj(wbits=-15)
    assert decoded("deflate", raw.compress(TEXT) + raw.flush()) == TEXT


def test_several_members_and_frames_are_one_body() -> None:
    assert decoded("gzip", gzip.compress(b"a") + gzip.compress(b"") + gzip.compress(b"b")) == b"ab"
    frame = zstandard.ZstdCompressor().compress
    skipped = (0x184D2A51).to_bytes(4, "little") + (3).to_bytes(4, "little") + b"xyz"
    assert decoded("zstd", frame(b"a") + skipped + frame(b"b")) == b"ab"


@pytest.mark.parametrize("coding", CODINGS)
def test_a_step_gives_little_whatever_comes_of_it(coding: str) -> None:
    bomb = encoded(coding, bytes(50_000_000))
    assert len(bomb) < 100_000
    decoder = open_decoder(coding, bomb)
    # brotli's buffer grows in its own steps, and stops behind the limit.
    assert all(0 < len(decoder.read(65536)) <= 4 * 65536 for _ in range(20))


@pytest.mark.parametrize("coding", CODINGS)
@pytest.mark.parametrize("cut", [1, 5, 20])
def test_what_ends_too_soon_is_no_body(coding: str, cut: int) -> None:
    whole = encoded(coding, bytes(range(256)) * 40)
    with pytest.raises(BadCoding):
        decoded(coding, whole[:-cut])


@pytest.mark.parametrize("coding", CODINGS)
def test_what_is_no_such_coding(coding: str) -> None:
    with pytest.raises(BadCoding):
        decoded(coding, b'{"model": "sonnet"}')


def test_more_behind_the_end_is_not_passed_over() -> None:
    with pytest.raises(BadCoding):
        decoded("deflate", zlib.compress(TEXT) + b"more")
    with pytest.raises(BadCoding):
        decoded("zstd", zstandard.ZstdCompressor().compress(TEXT) + b"more")


def test_a_zstd_frame_that_asks_for_too_much_memory() -> None:
    parameters = zstandard.ZstdCompressionParameters(window_log=27)
    compressor = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    with pytest.raises(BadCoding):
        decoded("zstd", compressor.compress(TEXT) + compressor.flush())


def test_codings_are_read_from_their_headers() -> None:
    assert read_codings([]) == []
    assert read_codings([b"identity"]) == []
    assert read_codings([b"GZIP, zstd", b"x-gzip"]) == ["gzip", "zstd", "gzip"]
    for unknown in (b"compress", b"gzip, aes128gcm", b"gzip,gzip,gzip,gzip", b"\xff"):
        with pytest.raises(UnknownCoding):
            read_codings([unknown])
