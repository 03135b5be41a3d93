"""JSON that is kept, in no more memory than it has bytes.

Knows: what orjson's results take. Refuses to know: what is in them.

orjson (3.13) leaves about 4 KB behind each result. What is written out and dropped loses
nothing by that; of what is kept, ten thousand small ones would take 40 MB.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from io import BytesIO
from typing import Any
from uuid import uuid4

import orjson
from attrs import frozen

SPARE = 4096
"""Bytes that orjson may leave behind a result."""

COPIED = 8 * SPARE
"""Bytes of a result from which on that is little beside it."""


def kept_json(value: Any) -> bytes:
    """`value` as compact UTF-8 JSON. Raises `TypeError` for what has none."""
    data = orjson.dumps(value)
    return b"%b" % data if len(data) < COPIED else data


# -- long texts ------------------------------------------------------------------------------------

LONG = 65536
"""Characters from which on a text is written in pieces."""

_CHUNK = 32 * 1024


@frozen(eq=False)
class LongText:
    """A text in a JSON value that is not made yet: `pieces` begins to make it, piece by piece."""

    pieces: Callable[[], Iterator[str]]


def json_pieces(value: Any, dumps: Callable[[Any], bytes]) -> Iterator[bytes]:
    """`value` as `dumps` writes it, piece by piece: its long texts are never in memory as a whole
    a second time. (orjson keeps the UTF-8 of each text that it writes beside the text.)"""
    texts: list[str | LongText] = []
    mark = uuid4().hex  # stands for a text; no client can know it
    around = dumps(_without_long(value, mark, texts)).split(b'"%s"' % mark.encode())
    yield around[0]
    for text, rest in zip(texts, around[1:], strict=True):
        yield b'"'
        for piece in (text,) if isinstance(text, str) else text.pieces():
            for begin in range(0, len(piece), _CHUNK):
                yield dumps(piece[begin : begin + _CHUNK])[1:-1]
        yield b'"'
        yield rest


def _without_long(value: Any, mark: str, texts: list[str | LongText]) -> Any:
    """A copy of `value` with `mark` for each long text, all of which go to `texts`."""
    if (isinstance(value, str) and len(value) >= LONG) or isinstance(value, LongText):
        texts.append(value)
        return mark
    if isinstance(value, dict):
        return {name: _without_long(each, mark, texts) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_without_long(each, mark, texts) for each in value]
    return value


def long_json(value: Any) -> bytes:
    """As `kept_json`, of a value with long texts."""
    made = BytesIO()
    for piece in json_pieces(value, orjson.dumps):
        made.write(piece)
    return made.getvalue()  # without a copy
