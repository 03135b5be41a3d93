"""Frames as lines of JSON: a short one at once, a long one in pieces, as it is written.

Knows: how a frame with megabytes of text becomes bytes without a second copy of them. Refuses to
know: what a frame says (`schemas.claude.input`), and who writes it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from attrs import frozen

from ..json_bytes import LONG, LongText, json_pieces, kept_json

PIECE = 256 * 1024
"""About how many bytes a piece has."""

Frame = dict[str, Any]


@frozen(eq=False)
class LongLine:
    """A line that is not made yet; `make` returns its frame.

    Making and encoding it takes milliseconds for each megabyte: that belongs into a thread.
    """

    make: Callable[[], Frame]

    def pieces(self) -> Iterator[bytes]:
        """The line, newline included. No more than one piece of it is in memory at a time, beside
        what is in the frame: long texts are encoded bit by bit."""
        held: list[bytes] = []
        size = 0
        for bit in json_pieces(self.make(), _dumps):
            held.append(bit)
            size += len(bit)
            if size >= PIECE:
                yield b"".join(held)
                held, size = [], 0
        yield b"".join([*held, b"\n"])

    def __bytes__(self) -> bytes:
        return b"".join(self.pieces())


Line = bytes | LongLine


def pieces_of(line: Line) -> Iterable[bytes]:
    """A line in the pieces in which it should be written. It may take milliseconds for each."""
    return (line,) if isinstance(line, bytes) else line.pieces()


def line(frame: Frame) -> Line:
    """One frame as a line. A frame that is changed later must not be passed."""
    if weigh(frame) < LONG:
        return encode(frame)
    return LongLine(lambda: frame)


def encode(frame: Frame) -> bytes:
    """A whole line at once."""
    return _dumps(frame) + b"\n"


def weigh(value: Any) -> int:
    """About how many characters a JSON value has; O(values)."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, LongText):
        return LONG
    if isinstance(value, dict):
        return sum(map(weigh, value.values())) + 8 * len(value)
    if isinstance(value, list | tuple):
        return sum(map(weigh, value)) + len(value)
    return 4


def _dumps(value: Any) -> bytes:
    try:
        return kept_json(value)
    except TypeError:
        # A lone surrogate has no UTF-8, but it has an escape; the CLI reads it as U+FFFD.
        return json.dumps(value, ensure_ascii=True).encode()
