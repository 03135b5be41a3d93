"""Bodies of ``multipart/form-data``, read as they come.

Knows: parts, their names and bounds; the grammar is python-multipart's. Refuses to know: what any
field means, and where bytes go. At most one chunk of the body is held.
"""

from __future__ import annotations

import logging

from attrs import define, field, frozen
from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import MultipartParser, parse_options_header

from ...schemas.errors import InvalidRequest, UnsupportedMediaType

MAX_PARTS = 32
MAX_HEADERS = 8
MAX_HEADER_BYTES = 4096
MAX_BOUNDARY = 256

logging.getLogger("python_multipart").setLevel(logging.CRITICAL)  # every client could write there


@frozen
class Part:
    """A part begins. `file_name` None: it is a field, and no file."""

    name: str
    file_name: str | None


Event = Part | bytes
"""A part begins; more of its content."""


def boundary_of(content_type: str | None) -> bytes:
    """Raises `UnsupportedMediaType`, `InvalidRequest`."""
    kind, options = parse_options_header((content_type or "")[:1024])
    if kind != b"multipart/form-data":
        raise UnsupportedMediaType(
            "The body must be a form, sent with content-type: multipart/form-data."
        )
    boundary = options.get(b"boundary", b"")
    if not 0 < len(boundary) <= MAX_BOUNDARY:
        raise InvalidRequest(
            "The content-type needs a boundary of at most 256 characters.", code="invalid_form"
        )
    return boundary


@define(eq=False)
class FormReader:
    """Reads one body. `feed` gives what stands in the next bytes of it."""

    boundary: bytes
    is_whole: bool = False
    _events: list[Event] = field(factory=list)
    _parts: int = 0
    _name: bytes = b""
    _value: bytes = b""
    _disposition: bytes = b""
    _parser: MultipartParser = field(init=False)

    @_parser.default
    def _open(self) -> MultipartParser:
        return MultipartParser(
            self.boundary,
            {
                "on_part_begin": self._begin,
                "on_header_field": self._add_name,
                "on_header_value": self._add_value,
                "on_header_end": self._end_header,
                "on_headers_finished": self._end_headers,
                "on_part_data": self._add_data,
                "on_end": self._end,
            },
            max_header_count=MAX_HEADERS,
            max_header_size=MAX_HEADER_BYTES,
        )

    def feed(self, chunk: bytes) -> list[Event]:
        """Raises `InvalidRequest` (``invalid_form``)."""
        try:
            self._parser.write(chunk)
        except MultipartParseError:
            raise _invalid("it does not keep to its grammar") from None
        events, self._events = self._events, []
        return events

    def end(self) -> None:
        """See that the body was whole. Raises `InvalidRequest`."""
        if not self.is_whole:
            raise _invalid("its end is missing")

    # -- called by the parser ----------------------------------------------------------------------

    def _begin(self) -> None:
        self._parts += 1
        if self._parts > MAX_PARTS:
            raise _invalid(f"it has more than {MAX_PARTS} parts")
        self._name = self._value = self._disposition = b""

    def _add_name(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]

    def _add_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _end_header(self) -> None:
        if self._name.strip().lower() == b"content-disposition":
            self._disposition = self._value
        self._name = self._value = b""

    def _end_headers(self) -> None:
        kind, options = parse_options_header(self._disposition.decode("latin-1"))
        if kind != b"form-data" or b"name" not in options:
            raise _invalid("one of its parts has no name")
        file_name = options.get(b"filename")
        self._events.append(
            Part(
                options[b"name"].decode("utf-8", "replace"),
                None if file_name is None else file_name.decode("utf-8", "replace"),
            )
        )

    def _add_data(self, data: bytes, start: int, end: int) -> None:
        if start < end:
            self._events.append(bytes(data[start:end]))

    def _end(self) -> None:
        self.is_whole = True


def _invalid(why: str) -> InvalidRequest:
    return InvalidRequest(f"The body is not a valid form: {why}.", code="invalid_form")
