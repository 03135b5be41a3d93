"""The smallest sound pictures and documents of each kind, and how a client writes them."""

from __future__ import annotations

import base64
import struct
import zlib


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int = 1, height: int = 1, padding: int = 0) -> bytes:
    """A grey picture; `padding` bytes of a text chunk make it longer."""
    rows = zlib.compress(b"\0" * (height * (width + 1)))
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"".join(
        (
            b"\x89PNG\r\n\x1a\n",
            _chunk(b"IHDR", header),
            _chunk(b"tEXt", b"x\0" + b"p" * padding) if padding else b"",
            _chunk(b"IDAT", rows),
            _chunk(b"IEND", b""),
        )
    )


def _segment(marker: int, data: bytes) -> bytes:
    return bytes((0xFF, marker)) + struct.pack(">H", len(data) + 2) + data


def jpeg(width: int = 1, thumbnail: bytes = b"") -> bytes:
    """The frame of a JPEG: its tables are empty, which no test decodes."""
    return b"".join(
        (
            b"\xff\xd8",
            _segment(0xE0, b"JFIF\0\1\1\0\0\1\0\1\0\0"),
            _segment(0xE1, b"Exif\0\0" + thumbnail),
            _segment(0xC0, struct.pack(">BHHBBBB", 8, 1, width, 1, 1, 0x11, 0)),
            _segment(0xDA, b"\1\1\0\0\x3f\0"),
            b"\x12\xff\x00\x34",
            b"\xff\xd9",
        )
    )


GIF = b"GIF89a" + struct.pack("<HHBBB", 1, 1, 0, 0, 0) + (
    b"\x2c\0\0\0\0\1\0\1\0\0\x02\x02\x44\x01\0\x3b"
)  # fmt: skip

WEBP = b"RIFF" + struct.pack("<I", 22) + b"WEBPVP8L" + struct.pack("<I", 10) + (
    b"\x2f\0\0\0\x10\x07\x10\x11\x11\0"
)  # fmt: skip

PDF = b"%PDF-1.4\n1 0 obj<</Type/Catalog>>endobj\ntrailer<</Root 1 0 R>>\n%%EOF\n"


def data_url(data: bytes, media_type: str = "image/png") -> str:
    return f"data:{media_type};base64,{base64.b64encode(data).decode()}"
