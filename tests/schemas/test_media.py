"""Attachments as words: their forms, data URLs, and what their bytes have to be."""

from __future__ import annotations

import base64
import codecs
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ccapi.schemas.errors import InvalidRequest
from ccapi.schemas.media import (
    MAX_ESCAPES,
    Allowance,
    Attachment,
    Content,
    TooManyBytes,
    block_of,
    read_inline,
)
from ccapi.schemas.media_types import Damaged, image_type, is_pdf, plain_text
from ccapi.schemas.message import Document, Image
from tests.support.pictures import GIF, PDF, WEBP, data_url, jpeg, png

FIELD = "messages[0].content[1].image_url.url"


def image(source: str) -> Attachment:
    return Attachment("image", source, FIELD)


def file(source: str, name: str | None = None) -> Attachment:
    return Attachment("file", source, FIELD, name)


def block(attachment: Attachment, limit: int = 1 << 20) -> Image | Document:
    return block_of(attachment, read_inline(attachment, Allowance(limit)))


def error_of(attachment: Attachment) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        block(attachment)
    assert caught.value.param == FIELD
    assert caught.value.message.startswith(f"{FIELD} ")
    return caught.value


# -- forms


@pytest.mark.parametrize(
    ("attachment", "origin"),
    [
        (image("data:image/png;base64,"), "inline"),
        (image("DATA:,x"), "inline"),
        (image("https://a.example/b.png"), "remote"),
        (image("HTTP://a.example"), "remote"),
        (image("/tmp/a.png"), "local"),
        (image("file:///tmp/a.png"), "local"),
        (image("File:/tmp/a.png"), "local"),
        (image("a.png"), "unknown"),
        (image("ftp://a.example"), "unknown"),
        (image(""), "unknown"),
        (image(" https://a.example"), "unknown"),
        (file("JVBERi0="), "inline"),
        (file("/9j/4AAQ"), "inline"),
        (file(""), "inline"),
        (file("data:application/pdf;base64,"), "inline"),
        (file("https://a.example/b.pdf"), "remote"),
        (file("file:///tmp/a.pdf"), "local"),
        (file("ftp://a.example"), "unknown"),
    ],
)
def test_where_an_attachment_is_to_be_found(attachment: Attachment, origin: str) -> None:
    assert attachment.origin == origin


def test_an_attachment_does_not_show_its_source() -> None:
    assert "secret" not in repr(image("https://a.example/?sig=secret"))
    assert "c2VjcmV0" not in repr(Content(b"c2VjcmV0", "text/plain", "c2VjcmV0"))


# -- data URLs

SOUND = {"image/png": png(), "image/jpeg": jpeg(), "image/gif": GIF, "image/webp": WEBP}


@pytest.mark.parametrize("media_type", SOUND)
@pytest.mark.parametrize("declared", [*SOUND, "application/octet-stream", "text/plain"])
def test_what_an_image_is_counts_and_not_what_it_is_called(media_type: str, declared: str) -> None:
    data = SOUND[media_type]
    expected = Image(media_type, base64.b64encode(data).decode())
    assert block(image(data_url(data, declared))) == expected


@pytest.mark.parametrize(
    "head",
    [
        "data:;base64,",
        "data:image/png;BASE64,",
        "DATA:Image/PNG;charset=utf-8;x=%20y;base64,",
        "data:image/svg+xml;base64,",
    ],
)
def test_heads_that_rfc_2397_allows(head: str) -> None:
    assert block(image(head + base64.b64encode(GIF).decode())) == Image(
        "image/gif", base64.b64encode(GIF).decode()
    )


@pytest.mark.parametrize(
    "head",
    [
        "data:image/png;base64",
        "data:image;base64,",
        "data:/png;base64,",
        "data: image/png;base64,",
        "data:image/png; base64,",
        "data:image/png;base64;charset=x,",
        "data:image/png;charset,",
        "data:image/png;x=%2;base64,",
        "data:image/png;x=" + "a" * 2000 + ";base64,",
        "data:image/pn\u00e9;base64,",
    ],
)
def test_heads_that_it_does_not(head: str) -> None:
    error = error_of(image(head + base64.b64encode(GIF).decode()))
    assert (error.code, "data:TYPE;base64,DATA" in error.message) == ("invalid_image", True)


def test_a_hostile_head_is_refused_at_once() -> None:
    error_of(image("data:a/a;a=" + "a" * 1000 + "\x00,"))


@pytest.mark.parametrize("text", ["R0lGOD", "R0lGOD==x", "R0lG ODlh", "R0lG\nODlh", "R0lG-_lh",
                                  "====", "é", "R0lGODlh\n"])  # fmt: skip
def test_base64_is_taken_strictly(text: str) -> None:
    assert "valid base64" in error_of(image(f"data:image/gif;base64,{text}")).message
    assert error_of(file(text)).code == "invalid_file"


def test_escaped_base64_and_escaped_bytes_are_understood() -> None:
    text = base64.b64encode(png(3)).decode()
    escaped = "".join(f"%{ord(char):02x}" if char in "+/=" else char for char in text)
    assert block(image(f"data:image/png;base64,{escaped}")) == Image("image/png", text)
    bytewise = "".join(f"%{byte:02X}" for byte in png(3))
    assert block(image(f"data:image/png,{bytewise}")) == Image("image/png", text)


@pytest.mark.parametrize("data", ["%", "%4", "%zz", "GIF\u00e9"])
@pytest.mark.parametrize("base", ["", ";base64"])
def test_broken_escapes_are_refused(data: str, base: str) -> None:
    assert error_of(image(f"data:image/gif{base},{data}")).code == "invalid_image"


def test_escapes_are_bounded() -> None:
    source = "data:text/plain," + "%41" * (MAX_ESCAPES + 1)
    assert "use base64" in error_of(file(source)).message


@given(data=st.binary(min_size=1))
def test_any_bytes_come_back_as_canonical_base64(data: bytes) -> None:
    content = read_inline(file(data_url(data)), Allowance(len(data)))
    assert content.data == data
    assert content.base64 == base64.b64encode(data).decode()
    text = base64.b64encode(data).decode()
    if text.endswith("=="):  # the last character before the padding has four idle bits
        twin = text[:-3] + chr(ord(text[-3]) + 1) + "=="
        content = read_inline(file(twin), Allowance(len(data)))
        assert (content.data, content.base64) == (data, text)


# -- sizes


@pytest.mark.parametrize("write", [data_url, lambda data: base64.b64encode(data).decode(),
                                   lambda data: "data:," + "%00" * len(data)])  # fmt: skip
@pytest.mark.parametrize("size", [1, 2, 3, 4, 100])
def test_the_limit_is_exact(write: Callable[[bytes], str], size: int) -> None:
    source = write(bytes(size))
    assert len(read_inline(file(source), Allowance(size)).data) == size
    with pytest.raises(TooManyBytes) as caught:
        read_inline(file(source), Allowance(size - 1))
    assert caught.value.limit == size - 1


def test_what_is_too_long_is_not_decoded() -> None:
    with pytest.raises(TooManyBytes):
        read_inline(image("data:image/png;base64," + "?" * 400), Allowance(100))


def test_an_allowance_counts_for_the_whole_request_too() -> None:
    whole = Allowance(10)
    first, second = Allowance(8, whole), Allowance(8, whole)
    first.take(6)
    assert (first.left, second.left) == (2, 4)
    with pytest.raises(TooManyBytes) as caught:
        second.take(5)
    assert (caught.value.limit, second.taken, whole.taken) == (10, 0, 6)
    with pytest.raises(TooManyBytes) as caught:
        first.take(3)
    assert caught.value.limit == 8
    second.take(4)
    assert (first.left, second.left) == (0, 0)


# -- pictures


@pytest.mark.parametrize("media_type", SOUND)
def test_a_picture_that_broke_off_is_an_error(media_type: str) -> None:
    data = SOUND[media_type]
    for length in range(12, len(data)):
        with pytest.raises(Damaged):
            image_type(data[:length])
    for length in range(12):
        try:
            assert image_type(data[:length]) is None
        except Damaged:
            pass


def test_what_programs_append_is_left_alone() -> None:
    assert image_type(png() + b"trailer\xff\xda") == "image/png"
    assert image_type(jpeg() + b"trailer\xff\xda") == "image/jpeg"
    assert image_type(GIF + b"\0\0\r\n") == "image/gif"
    assert image_type(WEBP + b"\0") == "image/webp"


def test_a_thumbnail_does_not_end_the_picture() -> None:
    whole = jpeg(thumbnail=jpeg())
    assert image_type(whole) == "image/jpeg"
    with pytest.raises(Damaged):
        image_type(whole[:-2])


@pytest.mark.parametrize(
    "data",
    [
        png(width=0),
        png().replace(b"IDAT", b"xDAT"),
        jpeg(width=0),
        b"\xff\xd8" + b"\xff\xfe\x00\x02" * 5000 + jpeg()[2:],
        b"\xff\xd8" + b"\xff" * 100_000,
        b"\xff\xd8\xff\xe0\x00\x01" + jpeg()[6:],
        GIF[:6] + b"\0\0" + GIF[8:],
        WEBP.replace(b"VP8L", b"JUNK"),
    ],
)
def test_frames_that_hold_no_picture(data: bytes) -> None:
    with pytest.raises(Damaged):
        image_type(data)
    error = error_of(image(data_url(data)))
    assert error.code == "invalid_image"
    assert "damaged" in error.message


@pytest.mark.parametrize("data", [b"x", b"<svg/>", b"BM" + bytes(60), b"II*\0", PDF, b"\xff\xd8"])
def test_other_things_are_no_image(data: bytes) -> None:
    error = error_of(image(data_url(data)))
    assert (error.code, error.message) == (
        "invalid_image", f"{FIELD} must be a PNG, JPEG, GIF or WebP image."
    )  # fmt: skip


def test_nothing_is_no_image() -> None:
    assert "is empty" in error_of(image("data:image/png;base64,")).message
    assert "is empty" in error_of(file("")).message


@given(st.binary())
def test_any_bytes_are_decoded_or_damaged(data: bytes) -> None:
    for start in (b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF89a", b"RIFF\x20\0\0\0WEBP"):
        try:
            assert image_type(start + data) in {*SOUND, None}
        except Damaged:
            pass


# -- files


def test_a_pdf_is_a_document_with_its_name() -> None:
    text = base64.b64encode(PDF).decode()
    expected = Document("application/pdf", text, "a.pdf")
    assert block(file(data_url(PDF, "application/pdf"), "a.pdf")) == expected
    assert block(file(text, "a.pdf")) == expected
    assert block(file(data_url(PDF, "text/plain"), "a.pdf")) == expected
    assert is_pdf(b"junk" * 250 + PDF)
    assert not is_pdf(b"junk" * 260 + PDF)


def test_a_pdf_that_broke_off_is_an_error() -> None:
    error = error_of(file(data_url(PDF[:-7], "application/pdf")))
    assert (error.code, "PDF" in error.message) == ("invalid_file", True)


def text_of(document: Image | Document) -> str:
    assert isinstance(document, Document)
    assert document.media_type == "text/plain"
    return base64.b64decode(document.data).decode()


TEXT = "Grüße\r\n\tan \x1b[1malle 😀"


@pytest.mark.parametrize(
    "declared",
    ["text/markdown", "application/json", "application/x-yaml", "application/zip", "image/png", ""],
)
@pytest.mark.parametrize("name", ["a.txt", "data.csv", "main.rs", "a.pdf"])
def test_text_is_a_document_whatever_it_is_called(declared: str, name: str) -> None:
    data = TEXT.encode()
    text = base64.b64encode(data).decode()
    expected = Document("text/plain", text, name)
    assert block(file(data_url(data, declared), name)) == expected
    assert block(file(text, name)) == expected  # bare base64 is called nothing
    assert block(file("data:,Hallo%20du")) == Document("text/plain", "SGFsbG8gZHU=", None)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
def test_a_byte_order_mark_gives_the_encoding_and_is_no_text(encoding: str) -> None:
    mark = {"utf-16-le": codecs.BOM_UTF16_LE, "utf-16-be": codecs.BOM_UTF16_BE}.get(encoding, b"")
    assert text_of(block(file(data_url(mark + TEXT.encode(encoding))))) == TEXT


def test_a_program_that_writes_a_pdf_is_text() -> None:
    program = 'HEADER, END = b"%PDF-1.4\\n", b"trailer\\n%%EOF\\n"\n'
    assert text_of(block(file(data_url(program.encode())))) == program


@pytest.mark.parametrize(
    "data",
    [
        b"a\0b",
        "a".encode("utf-16-le") * 2,  # without a mark
        codecs.BOM_UTF16_LE + b"a",
        codecs.BOM_UTF16_LE + b"\0\0",
        b"\x7fELF\x02\x01\x01\0",
        b"\x08",
        "Grüße".encode("latin-1"),
        b"PK\x03\x04",
    ],
)
@pytest.mark.parametrize("declared", ["text/plain", "application/json"])
def test_what_is_no_text(data: bytes, declared: str) -> None:
    assert plain_text(data) is None
    error = error_of(file(data_url(data, declared)))
    assert error.code == "invalid_file"
    for taken in ("PDF", "UTF-8", "UTF-16"):
        assert taken in error.message


@pytest.mark.parametrize("data", [b" \n", codecs.BOM_UTF8, codecs.BOM_UTF16_LE])
def test_text_with_nothing_in_it(data: bytes) -> None:
    error = error_of(file(data_url(data)))
    assert (error.code, error.message) == ("invalid_file", f"{FIELD} has no text in it.")


def test_a_picture_is_no_file() -> None:
    assert "PDF" in error_of(file(data_url(png()))).message
