"""JSON that is kept, in no more memory than it has bytes.

Knows: what orjson's results take. Refuses to know: what is in them.

orjson (3.13) leaves about 4 KB behind each result. What is written out and dropped loses
nothing by that; of what is kept, ten thousand small ones would take 40 MB.
"""

from __future__ import annotations

from typing import Any

import orjson

SPARE = 4096
"""Bytes that orjson may leave behind a result."""

COPIED = 8 * SPARE
"""Bytes of a result from which on that is little beside it."""


def kept_json(value: Any) -> bytes:
    """`value` as compact UTF-8 JSON. Raises `TypeError` for what has none."""
    data = orjson.dumps(value)
    return b"%b" % data if len(data) < COPIED else data
