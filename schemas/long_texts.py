"""JSON with megabytes of text in a few strings, read without a second copy of them in memory.

Knows: where a JSON string can be cut so that each part of it is a string itself (RFC 8259, section
7). Refuses to know: what the text means, and how much of it there may be (`schemas.json_bounds`).

A parser copies its input, makes objects while it has both, and lets no other thread run meanwhile.
So where most of a text lies in long strings, these are taken out of it, in pieces. The rest is
parsed, with a mark in place of each. Then each string grows by its pieces, which go one by one.

One character beyond U+FFFF makes CPython spend four bytes on every character of a string. Beside
such a string there is never another copy of it.
"""

from __future__ import annotations

import re
from itertools import chain, pairwise
from typing import Any
from uuid import uuid4

import orjson
from attrs import frozen

from .json_bounds import SLICE, drop_escapes

PIECE = 256 * 1024
"""Bytes of a string that are read at once: about a millisecond."""

_WINDOW = 1024
"""Bytes in which a place for a cut is looked for."""

_CUT = re.compile(rb'[^0-9A-Fa-f"\\/nrtu\x80-\xbf]')
"""A byte before which a string can be cut: it stands neither in an escape nor within a character.
What stands before it is whole, or is no JSON."""

_MARK = 32
_NUMBER = 8
"""Characters of a mark, and of the number behind it."""


@frozen(eq=False)
class _Cut:
    """A text without the middle of its long strings: `parts` stand around these. `pieces` are the
    bytes of each, in order."""

    parts: list[bytes]
    pieces: list[list[bytes]]

    def marked(self, mark: str) -> bytes:
        made = [self.parts[0]]
        for number, part in enumerate(self.parts[1:]):
            made += [f"{mark}{number:0{_NUMBER}x}".encode(), part]
        return b"".join(made)


def parse(text: bytes | bytearray) -> Any:
    """The JSON value in `text`. A bytearray is emptied as soon as nothing needs it.

    Raises `orjson.JSONDecodeError`.
    """
    cut = _cut(text)
    if cut is None:
        return orjson.loads(text)
    mark = uuid4().hex  # no client can know it
    try:
        root = [orjson.loads(cut.marked(mark))]
        for piece in chain(*cut.pieces):
            _read(piece)
    except orjson.JSONDecodeError:
        return orjson.loads(text)  # raises, and says where the fault is
    places = _places(root, mark)
    if len(places) < len(cut.pieces):  # a name is that long, or there twice
        return orjson.loads(text)
    if isinstance(text, bytearray):
        text.clear()
    for number, (holder, key) in places.items():
        before, after = _around(holder[key], mark)
        holder[key] = _grown(before, cut.pieces[number], after)
    return root[0]


def _cut(text: bytes | bytearray) -> _Cut | None:
    """None where it is not worth while."""
    runs = [cuts for begin, end in _long_runs(text) if (cuts := _cuts(text, begin, end))]
    if 2 * sum(cuts[-1] - cuts[0] for cuts in runs) <= len(text):
        return None
    parts, pieces, begin = [], [], 0
    with memoryview(text) as view:
        for cuts in runs:
            parts.append(bytes(view[begin : cuts[0]]))
            pieces.append([bytes(view[a:b]) for a, b in pairwise(cuts)])
            begin = cuts[-1]
        parts.append(bytes(view[begin:]))
    return _Cut(parts, pieces)


def _long_runs(text: bytes | bytearray) -> list[tuple[int, int]]:
    """Ranges of `SLICE` bytes and more in which no string ends. (They may lie outside of any: there
    a mark is no JSON.)"""
    runs: list[tuple[int, int]] = []
    begin, escape = 0, b""
    with memoryview(text) as view:
        for at in range(0, len(text), SLICE):
            piece, escape = drop_escapes(escape + bytes(view[at : at + SLICE]))
            if b'"' in piece:
                if begin < at:
                    runs.append((begin, at))
                begin = at + SLICE
    return runs


def _cuts(text: bytes | bytearray, begin: int, end: int) -> list[int]:
    """Where the string is cut that has this range: the first and last cut enclose what is taken
    out. Empty where there is no place for one of them."""
    first = _CUT.search(text, begin, begin + _WINDOW)
    if first is None:
        return []
    cuts = [first.start()]
    for wanted in [*range(begin + PIECE, end, PIECE), end]:
        found = [*_CUT.finditer(text, max(cuts[-1], wanted - _WINDOW), wanted)]
        if not found:
            return []
        cuts.append(found[-1].start())
    return cuts


def _places(root: list[Any], mark: str) -> dict[int, tuple[Any, Any]]:
    """Where the strings with a mark are: by its number, what holds the string and under which key
    or index."""
    places: dict[int, tuple[Any, Any]] = {}
    holders: list[Any] = [root]
    while holders:
        holder = holders.pop()
        for key, value in holder.items() if isinstance(holder, dict) else enumerate(holder):
            if isinstance(value, dict | list):
                holders.append(value)
            elif isinstance(value, str) and (at := value.find(mark)) >= 0:
                places[int(value[at + _MARK : at + _MARK + _NUMBER], 16)] = holder, key
    return places


def _around(value: str, mark: str) -> tuple[str, str]:
    at = value.index(mark)
    return value[:at], value[at + _MARK + _NUMBER :]


def _grown(text: str, pieces: list[bytes], after: str) -> str:
    """CPython lets a string grow where it is, if nothing else knows it. (It does so from the second
    round of a `for` on; in a `while`, only once the function was called several times.)"""
    for number, piece in enumerate(pieces):
        text += _read(piece)
        pieces[number] = b""
    text += after
    return text


def _read(piece: bytes) -> str:
    read: str = orjson.loads(b'"%b"' % piece)
    return read
