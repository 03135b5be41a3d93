"""JSON that is kept takes no more memory than it has bytes."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable

import pytest

from ccapi.schemas.claude.lines import line
from ccapi.schemas.json_bytes import COPIED, kept_json
from ccapi.schemas.log.codec import dumps, encode
from ccapi.schemas.log.messages import ExactMessage
from ccapi.schemas.log.records import Said

COUNT = 1000


def bytes_of_each(make: Callable[[], object]) -> float:
    make()
    tracemalloc.start()
    try:
        kept = [make() for _ in range(COUNT)]
        return tracemalloc.get_traced_memory()[0] / len(kept)
    finally:
        tracemalloc.stop()


def test_what_is_small_takes_little() -> None:
    value, exact = {"content": "hello"}, ExactMessage("user", ("hello",))
    assert bytes_of_each(lambda: kept_json(value)) < 200
    assert bytes_of_each(lambda: dumps(value)) < 200
    assert bytes_of_each(lambda: encode(Said(exact)).body) < 300
    assert bytes_of_each(lambda: line({"type": "user"})) < 300


@pytest.mark.parametrize("length", [0, 1, 5000, COPIED - 2, COPIED, 3 * COPIED])
def test_it_is_whole(length: int) -> None:
    assert kept_json("x" * length) == b'"%b"' % (b"x" * length)
    assert json.loads(kept_json({"a": ["é", length]})) == {"a": ["é", length]}
