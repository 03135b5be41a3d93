"""How much a JSON text holds, counted before any object is made of it.

Knows: what stands outside of strings in a JSON text (RFC 8259), and how many values, and in how
many levels, a text of a length may have. Refuses to know: what they mean, and whether the text is
JSON at all: a parser says that, and stops where it is not.

Three bytes, ``{},``, become about ninety as an object in memory. So it is the count that is
bounded, in proportion to the length: what people send has ten bytes and more for each value.
"""

from __future__ import annotations

from itertools import accumulate

from attrs import define

from .errors import InvalidRequest

SLICE = 65536
"""Bytes that are looked at in one go: a fraction of a millisecond."""

MAX_VALUES = 400_000
"""Values (scalars, arrays and objects) in any text."""

ALWAYS_VALUES = 50_000
"""Values that a text may have however short it is."""

BYTES_PER_VALUE = 16
"""Bytes of a text that allow for one value more."""

MAX_DEPTH = 512
"""Levels of arrays and objects. Far below what makes Python's own stack end."""

_NO_BRACKET = bytes(byte for byte in range(256) if byte not in b"[]{}")
_STEPS = tuple(1 if byte in b"[{" else -1 for byte in range(256))


MAX_ARGUMENT_VALUES = 200_000
"""JSON values in the arguments of all tool calls of a request, which are texts themselves."""


class TooMuchJson(InvalidRequest):
    """More values, or levels of them, than a text of that length may have."""

    default_code = "too_many_values"


def most_values(length: int) -> int:
    """How many values a text of `length` bytes may have."""
    return min(MAX_VALUES, ALWAYS_VALUES + length // BYTES_PER_VALUE)


class JsonMeter:
    """Counts the values of a text that is fed to it in pieces of any length, and their levels.

    `values` is one more than there are where an object or array is empty. Of what is no JSON it
    counts at least as many as a parser can have made before it stops.
    """

    def __init__(self, most: int = MAX_VALUES, deepest: int = MAX_DEPTH) -> None:
        self.values = 1
        self.depth = 0
        self._most = most
        self._deepest = deepest
        self._quotes = 0
        self._in_string = 0
        self._escape = b""

    def __repr__(self) -> str:
        return f"<JsonMeter {self.values} values, depth {self.depth}>"

    def feed(self, piece: bytes) -> None:
        """Raises `TooMuchJson`."""
        piece, self._escape = drop_escapes(self._escape + piece)
        parts = piece.split(b'"')
        outside = b"".join(parts[self._in_string :: 2])
        self._in_string = (self._in_string + len(parts) - 1) % 2
        self._quotes += len(parts) - 1
        opened = outside.count(b"[") + outside.count(b"{")
        self.values += opened + outside.count(b",")
        if self.values > self._most:
            raise TooMuchJson(f"A body of this length may hold at most {self._most} JSON values.")
        self._sink(outside, opened)

    @property
    def is_json(self) -> bool:
        """False where no parser can get to the end of what was fed: a value and its name are two
        strings at most."""
        return self._quotes <= 4 * self.values + 4

    def _sink(self, outside: bytes, opened: int) -> None:
        brackets = outside.translate(None, _NO_BRACKET)
        if self.depth + opened > self._deepest:
            heights = accumulate(map(_STEPS.__getitem__, brackets), initial=self.depth)
            if max(heights) > self._deepest:
                raise TooMuchJson(
                    f"The JSON is nested too deeply: at most {self._deepest} levels are read.",
                    code="invalid_json",
                )
        self.depth += 2 * opened - len(brackets)


def drop_escapes(piece: bytes) -> tuple[bytes, bytes]:
    """`piece` without what is escaped in it that could be taken for the end of a string, or of an
    escape; and a backslash at its end, which belongs before the next piece."""
    if b"\\" not in piece:
        return piece, b""
    backslashes = len(piece) - len(piece.rstrip(b"\\"))
    escape = b"\\" if backslashes % 2 else b""
    piece = piece[: len(piece) - len(escape)]
    return piece.replace(b"\\\\", b"").replace(b'\\"', b""), escape


VALUE_BYTES = 250
"""About what a value takes in memory while a request is read, beside the characters in it: as an
object of the parser's, and then of ours."""


def check_json(text: bytes | bytearray) -> int:
    """See that `text` has no more values, nor levels of them, than one of its length may have.
    Returns about how many bytes of memory reading it takes.

    Raises `TooMuchJson`; looks at no more of the text than it needs for that.
    """
    meter, characters = JsonMeter(most_values(len(text))), 0
    width = _widest(text)
    with memoryview(text) as view:  # an error's traceback must not keep hold of it
        for begin in range(0, len(text), SLICE):
            piece = bytes(view[begin : begin + SLICE])
            characters += len(piece) if width == 1 else len(piece.translate(None, _WITHIN))
            meter.feed(piece)
            if not meter.is_json:
                break
    return COPIES * len(text) + width * characters + VALUE_BYTES * meter.values


COPIES = 5
"""Times that a text is in memory in bytes, at most: as it came, as the parser copies it, and as it
is written for the child and for the store."""

_WITHIN = bytes(range(0x80, 0xC0))
"""Bytes of UTF-8 that begin no character."""

_FOUR_BYTES = [bytes([lead]) for lead in range(0xF0, 0xF5)]
_PAIRS = [b"\\u%c%c" % (d, each) for d in b"dD" for each in b"89abAB"]


def _widest(text: bytes | bytearray) -> int:
    """How many bytes CPython spends on each character of a text that has the widest of these."""
    if text.isascii() and b"\\u" not in text:
        return 1
    return 4 if any(sign in text for sign in (*_FOUR_BYTES, *_PAIRS)) else 2


@define
class ArgumentsMeter:
    """How many JSON values the arguments of a request's tool calls may still have."""

    left: int = MAX_ARGUMENT_VALUES

    def take(self, arguments: str, path: str) -> None:
        """Raises `TooMuchJson`. Whether they are JSON is not looked at here."""
        meter = JsonMeter(self.left, len(arguments))
        try:
            for begin in range(0, len(arguments), SLICE):
                meter.feed(arguments[begin : begin + SLICE].encode("utf-8", "surrogatepass"))
                if not meter.is_json:
                    break
        except TooMuchJson:
            raise TooMuchJson(
                "The arguments of all tool calls may hold at most "
                f"{MAX_ARGUMENT_VALUES} JSON values.",
                param=path,
            ) from None
        self.left -= meter.values
