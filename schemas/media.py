"""Attachments: the pictures and files of a request, from what the client gave to a block.

Knows: the forms in which a client may name one, data URLs (RFC 2397), which kinds of content are
taken, and how each error is worded. Refuses to know: where bytes that are not in the request
come from (`ccapi.transport.media.attachments`), and the fields they stood in.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from typing import Any, Literal
from urllib.parse import unquote_to_bytes

from attrs import evolve, field, frozen

from .errors import InvalidRequest
from .media_types import Damaged, image_type, is_pdf, plain_text
from .message import Document, Image, Message, ToolResult, is_blank

MAX_ESCAPES = 1 << 18
"""Percent escapes in one data URL. Each costs some hundred bytes of memory for a moment, and
base64, which has next to none, is the form for anything big."""

MAX_HEAD = 1024
"""Characters before the comma of a data URL."""

Origin = Literal["inline", "remote", "local", "stored", "unknown"]


@frozen
class Attachment:
    """A picture or file as the client gave it.

    `source` is a data URL, an http(s) URL, or the absolute path or ``file:`` URL of a file on the
    gateway's machine; for a file also bare base64 (and then no bare path, which would look the
    same). `path` is the request's field, for errors. `name` is what the client calls it, `context`
    what it says of a file to the model. With a `file_id` it is a file that was uploaded, and has no
    `source`.
    """

    kind: Literal["image", "file"]
    source: str = field(repr=False)  # up to megabytes, and may be signed
    path: str
    name: str | None = None
    context: str | None = None
    file_id: str | None = None

    @property
    def origin(self) -> Origin:
        """Where its bytes are to be found."""
        if self.file_id is not None:
            return "stored"
        start = self.source[:8].lower()
        if start.startswith("data:"):
            return "inline"
        if start.startswith(("http://", "https://")):
            return "remote"
        if start.startswith("file:"):
            return "local"
        if self.kind == "file":
            return "unknown" if ":" in self.source[:32] else "inline"
        return "local" if start.startswith("/") else "unknown"

    def refused(self, reason: str, code: str) -> InvalidRequest:
        """The error that says so: `reason` follows the field's name."""
        return InvalidRequest(f"{self.path} {reason}", code=code, param=self.path)

    @property
    def invalid(self) -> str:
        """The error code for content that is not what it should be."""
        return f"invalid_{self.kind}"


@frozen
class Content:
    """The bytes of an attachment, and their declared type.

    `declared` is a media type without parameters, None where none was declared. `encoded` is their
    canonical base64 where that is at hand already, `name` what an uploaded file was called.
    """

    data: bytes = field(repr=False)
    declared: str | None = None
    encoded: str | None = field(default=None, repr=False)
    name: str | None = None

    @property
    def base64(self) -> str:
        return self.encoded or base64.b64encode(self.data).decode("ascii")


class TooManyBytes(ValueError):
    """An attachment, or all of a request's together, are larger than allowed. `limit` in bytes."""

    def __init__(self, limit: int) -> None:
        super().__init__(f"more than {limit} bytes")
        self.limit = limit


class Allowance:
    """Bytes that may still be taken, of one attachment's own and of the `whole` request's.

    It is asked for every piece as it comes, so that no more than the limits is ever held.
    """

    def __init__(self, limit: int, whole: Allowance | None = None) -> None:
        self.limit = limit
        self.taken = 0
        self._whole = whole

    def __repr__(self) -> str:
        return f"<Allowance {self.taken} of {self.limit}>"

    @property
    def left(self) -> int:
        own = self.limit - self.taken
        return own if self._whole is None else min(own, self._whole.left)

    def check(self, count: int) -> None:
        """Raise `TooManyBytes` if `count` more bytes are not allowed."""
        if self.taken + count > self.limit:
            raise TooManyBytes(self.limit)
        if self._whole is not None:
            self._whole.check(count)

    def take(self, count: int) -> None:
        """Take `count` bytes. Raises `TooManyBytes`, and then takes none."""
        self.check(count)
        self.taken += count
        if self._whole is not None:
            self._whole.take(count)


# -- content that is in the request ----------------------------------------------------------------

_CHAR = r"[!#$&'*+.^_`|~0-9A-Z-]"  # of a token (RFC 9110, 5.6.2), without %
_HEAD = re.compile(
    rf"(?P<type>{_CHAR}+/{_CHAR}+)?(?:;{_CHAR}+=(?:{_CHAR}|%[0-9A-F]{{2}})*)*(?P<base64>;base64)?",
    re.IGNORECASE,
)
_BAD_ESCAPE = re.compile("%(?![0-9A-Fa-f]{2})")


def read_inline(attachment: Attachment, allowance: Allowance) -> Content:
    """The content of a data URL or of bare base64.

    Raises `InvalidRequest` where it is neither (strictly: no white space, no missing padding), and
    `TooManyBytes`, the latter before anything is decoded where the length shows it.
    """
    source = attachment.source
    if source[:5].lower() != "data:":
        return _from_base64(attachment, source, None, allowance)
    comma = source.find(",", 5, MAX_HEAD)
    head = _HEAD.fullmatch(source, 5, comma) if comma != -1 else None
    if head is None:
        raise attachment.refused(
            "must be a data URL of the form data:TYPE;base64,DATA.", attachment.invalid
        )
    declared = (head["type"] or "text/plain").lower()
    data = source[comma + 1 :]
    if head["base64"]:
        if "%" in data:
            data = _unescaped(attachment, data).decode("latin-1")
        return _from_base64(attachment, data, declared, allowance)
    # What is left when all escapes are undone: each is three characters for one byte.
    allowance.check(len(data) - 2 * data.count("%"))
    raw = _unescaped(attachment, data)
    allowance.take(len(raw))
    return Content(raw, declared)


def _unescaped(attachment: Attachment, text: str) -> bytes:
    if text.count("%") > MAX_ESCAPES:
        raise attachment.refused("has too many percent escapes: use base64.", attachment.invalid)
    if not text.isascii() or _BAD_ESCAPE.search(text):
        raise attachment.refused("is not a valid data URL.", attachment.invalid)
    return unquote_to_bytes(text)


def _from_base64(
    attachment: Attachment, text: str, declared: str | None, allowance: Allowance
) -> Content:
    allowance.check(len(text) // 4 * 3 - 2)  # the padding is two characters at most
    try:
        data = base64.b64decode(text, validate=True)
    except ValueError:
        raise attachment.refused("does not hold valid base64.", attachment.invalid) from None
    allowance.take(len(data))
    # A last group may carry bits that mean nothing; all others are canonical as they are.
    last = data[-(len(data) % 3 or 3) :]
    canonical = base64.b64encode(last).decode("ascii") == text[-4:]
    return Content(data, declared, text if canonical else None)


# -- what it is ------------------------------------------------------------------------------------


def block_of(attachment: Attachment, content: Content) -> Image | Document:
    """The block that stands for the attachment. Its type is what the bytes are, whatever they were
    declared to be. Raises `InvalidRequest` for anything but the kinds that are taken."""
    if not content.data:
        raise attachment.refused("is empty.", attachment.invalid)
    try:
        if attachment.kind == "image":
            return _image(attachment, content)
        return evolve(_document(attachment, content), context=attachment.context)
    except Damaged as damage:
        raise attachment.refused(
            f"is a {damage} that is damaged or not complete.", attachment.invalid
        ) from None


def _image(attachment: Attachment, content: Content) -> Image:
    media_type = image_type(content.data)
    if media_type is None:
        raise attachment.refused("must be a PNG, JPEG, GIF or WebP image.", attachment.invalid)
    return Image(media_type, content.base64)


def _document(attachment: Attachment, content: Content) -> Document:
    if is_pdf(content.data):
        return Document("application/pdf", content.base64, attachment.name or content.name)
    text = plain_text(content.data)
    if text is None:
        raise attachment.refused(
            "is neither a PDF document nor text: a file must be a PDF document, or text in UTF-8 "
            "or in UTF-16 with a byte order mark.",
            attachment.invalid,
        )
    if attachment.origin == "remote":
        # It may be an error page, and the client would not see that.
        raise attachment.refused(
            "is text, and from a URL only a PDF document is taken: send the text as file_data.",
            attachment.invalid,
        )
    if is_blank(text):
        raise attachment.refused("has no text in it.", attachment.invalid)
    encoded = text.encode()
    base64_text = (
        content.base64 if encoded == content.data else base64.b64encode(encoded).decode("ascii")
    )
    return Document("text/plain", base64_text, attachment.name or content.name)


@frozen
class Slot(Image):
    """The place of an attachment that is still to be looked at."""

    media_type: str = ""
    data: str = ""
    number: int = field(default=0, eq=False)  # of the attachment, in the order of the request


def fill(messages: Sequence[Message], blocks: Sequence[Image | Document]) -> tuple[Message, ...]:
    """`messages` with `blocks` in place of their slots; there must be one for each."""
    rest = dict(enumerate(blocks))

    def filled(block: Any) -> Any:
        match block:
            case Slot(number=number):
                return rest.pop(number)
            case ToolResult(_, content) if any(isinstance(part, Slot) for part in content):
                return evolve(block, content=tuple(map(filled, content)))
        return block

    whole = tuple(Message(each.role, tuple(map(filled, each.content))) for each in messages)
    assert not rest, "more blocks than slots"
    return whole
