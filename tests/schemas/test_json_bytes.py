"""JSON that is kept takes no more memory than it has bytes."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable

import pytest

from ccapi.schemas.claude.lines import line
from ccapi.schemas.json_bytes import COPIED, LONG, kept_json, long_json
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


@pytest.mark.parametrize(
    "unit", ["hello, ", "\U0001f600", "\U0001f600hello, ", '"\\\n\0', "\u4f60"]
)
def test_a_long_text_is_written_as_any_other(unit: str) -> None:
    value = {"content": ["short", unit * LONG, {"a": [unit * LONG, unit]}], "n": 1}
    assert long_json(value) == kept_json(value)


def test_a_long_text_is_written_without_a_copy_of_it() -> None:
    text = "\U0001f600" + "hello, " * 500_000
    tracemalloc.start()
    try:
        made = long_json([text])
        kept, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < 1.1 * len(made)
    assert peak < 1.5 * len(made)
