"""The fields of a request that have no effect, and how they are named to the client.

Knows: which fields a request's class has not, at its top and in the objects beneath it, and what a
header can hold. Refuses to know: which of the fields that it has are without effect (each request's
own module decides).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from typing import Any, get_args

import attrs

MAX_NAMES = 32
MAX_NAME = 64
"""Characters of one name."""


def unknown_fields(raw: object, cls: type) -> tuple[str, ...]:
    """Paths of what `raw` (JSON) has and the attrs class `cls` has no field for.

    What is empty (null, and empty text, arrays and objects) does not count. Arrays are not
    looked into.
    """
    return tuple(_unknown(raw, cls, "")) if isinstance(raw, Mapping) else ()


def _unknown(raw: Mapping[Any, Any], cls: type, path: str) -> Iterator[str]:
    known = _fields(cls)
    for name, value in raw.items():
        if name not in known:
            if value is not None and value not in ("", [], {}):
                yield f"{path}{name}"
        elif isinstance(value, Mapping) and (inner := known[name]) is not None:
            yield from _unknown(value, inner, f"{path}{name}.")


@cache
def _fields(cls: type) -> dict[str, type | None]:
    """The fields of a class; those that take an object of another attrs class have that."""
    resolved = attrs.fields(attrs.resolve_types(cls))
    return {each.name: _object_of(each.type) for each in resolved}


def _object_of(kind: Any) -> type | None:
    return next((each for each in (kind, *get_args(kind)) if attrs.has(each)), None)


def encode_ignored(names: Iterable[str]) -> str | None:
    """The value of ``x-ccapi-ignored``: every name once, as far as there is room. None: no name."""
    distinct = list(dict.fromkeys(map(_safe, names)))
    named, left = distinct[:MAX_NAMES], len(distinct) - MAX_NAMES
    if left > 0:
        named.append(f"+{left}")
    return ", ".join(named) or None


def _safe(name: str) -> str:
    """A client may call a field anything; a header takes little of that, and none of its commas."""
    return re.sub(r"[^A-Za-z0-9_.\-\[\]$@/:]", "_", name[:MAX_NAME]) or "_"
