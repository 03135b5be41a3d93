"""What bytes are, by what they hold: pictures and PDF documents, by their first bytes, and text.

Knows: the signatures of PNG, JPEG, GIF, WebP and PDF, and how each of them begins and ends, so
that an upload that broke off is refused here and not by the API. Refuses to know: names, declared
types, pixels. Nothing is decoded: a sound frame may still hold a picture that no decoder takes.

Every function takes time in proportion to the data at most, whatever the data holds.
"""

from __future__ import annotations

import codecs
import re

PNG = b"\x89PNG\r\n\x1a\n"
PDF_HEADER_WITHIN = 1024
"""Bytes: Acrobat finds the header of a PDF anywhere in the first 1024 (ISO 32000-1, annex H)."""

MAX_JPEG_SEGMENTS = 4096
"""Segments before a JPEG's picture. A segment has up to 64 KiB, and whole pictures, profiles and
the like fill some hundreds of them; more is only there to keep a reader busy."""

_TEM, _RST0, _SOI, _EOI, _SOS = 0x01, 0xD0, 0xD8, 0xD9, 0xDA
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # SOF markers: not DHT, JPG, DAC


class Damaged(ValueError):
    """The data begins as what it claims to be, and is not whole. `str()` names the format."""


def image_type(data: bytes) -> str | None:
    """The media type of a picture, None for anything else. Raises `Damaged`."""
    if data.startswith(PNG):
        return _sound("PNG", "image/png", _is_whole_png(data))
    if data.startswith(b"\xff\xd8\xff"):
        return _sound("JPEG", "image/jpeg", _is_whole_jpeg(data))
    if data.startswith((b"GIF87a", b"GIF89a")):
        return _sound("GIF", "image/gif", _is_whole_gif(data))
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return _sound("WebP", "image/webp", _is_whole_webp(data))
    return None


def is_pdf(data: bytes) -> bool:
    """Whether the data is a PDF document. Raises `Damaged` where its end is missing.

    Text that has the header of one further on, as a program that writes them has, is none.
    """
    if b"%PDF-" not in data[:PDF_HEADER_WITHIN]:
        return False
    ends = re.search(rb"[\r\n]%%EOF", data) is not None
    if not (ends or data.startswith(b"%PDF-")) and plain_text(data) is not None:
        return False
    if b"%%EOF" not in data:
        raise Damaged("PDF")
    return True


_ENCODINGS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)


def plain_text(data: bytes) -> str | None:
    """The text that the data is, without its byte order mark: UTF-8, or UTF-16 with a mark. None
    where it is no text: it has other bytes, or control characters other than white space and
    escape."""
    mark, encoding = next(
        ((mark, name) for mark, name in _ENCODINGS if data.startswith(mark)), (b"", "utf-8")
    )
    try:
        text = data[len(mark) :].decode(encoding)
    except UnicodeDecodeError:
        return None
    return None if re.search("[\0-\x08\x0e-\x1a\x1c-\x1f]", text) else text


def _sound(name: str, media_type: str, is_whole: bool) -> str:
    if not is_whole:
        raise Damaged(name)
    return media_type


def _is_whole_png(data: bytes) -> bool:
    """PNG (third edition), 5.3 and 11.2: an IHDR chunk of 13 bytes first, an empty IEND last.
    What some programs append after the end is ignored, as decoders ignore it."""
    begins = data[8:16] == b"\0\0\0\x0dIHDR" and b"\0\0\0\0" not in (data[16:20], data[20:24])
    return begins and b"IDAT" in data and b"\0\0\0\0IEND\xaeB`\x82" in data


def _is_whole_jpeg(data: bytes) -> bool:
    """ITU-T T.81, B.1 and B.2: segments up to the first scan, a frame with a size among them, and
    an end of image after that scan. A thumbnail and its end lie inside a segment, and are passed
    over with it; inside a scan no 0xFF is followed by 0xD9."""
    at, framed = 2, False
    for _ in range(MAX_JPEG_SEGMENTS):
        if data[at : at + 1] != b"\xff":
            return False
        marker = data[at + 1 : at + 2]
        if not marker:
            return False
        code = marker[0]
        if code == 0xFF:  # a fill byte
            at += 1
        elif code == _TEM or _RST0 <= code <= _SOI:
            at += 2
        elif code == _EOI:
            return False
        elif code == _SOS:
            return framed and data.find(b"\xff\xd9", at + 2) != -1
        else:
            if code in _FRAMES:
                # length (2 bytes), precision (1), height (2; 0: given after the scan), width (2)
                framed = data[at + 7 : at + 9] not in (b"", b"\0\0")
            length = int.from_bytes(data[at + 2 : at + 4], "big")
            if length < 2:
                return False
            at += 2 + length
    return False


def _is_whole_gif(data: bytes) -> bool:
    """GIF89a, 18 and 27: a screen with a size, and the trailer. Padding after it is left alone."""
    sized = b"\0\0" not in (data[6:8], data[8:10])
    return sized and len(data) > 13 and data.rstrip(b"\0\r\n").endswith(b";")


def _is_whole_webp(data: bytes) -> bool:
    """RFC 9649, 2.4 and 2.5: the file says how long it is, and begins with a picture's chunk."""
    size = int.from_bytes(data[4:8], "little")
    return data[12:16] in (b"VP8 ", b"VP8L", b"VP8X") and 12 < size <= len(data) - 8
