"""How much a JSON text holds, counted before anything is made of it."""

from __future__ import annotations

import gc
import sys
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ccapi.schemas import json_bounds
from ccapi.schemas.convert import read_json
from ccapi.schemas.errors import InvalidRequest
from ccapi.schemas.json_bounds import (
    COPIES,
    VALUE_BYTES,
    JsonMeter,
    TooMuchJson,
    check_json,
    most_values,
)

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text('a"\\,[]{}é\n'),
    lambda inner: st.lists(inner) | st.dictionaries(st.text('a"\\,[]{}'), inner),
)


def values_of(value: Any) -> int:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return 1 + sum(map(values_of, inner))


def depth_of(value: Any) -> int:
    if not isinstance(value, dict | list):
        return 0
    inner = value.values() if isinstance(value, dict) else value
    return 1 + max(map(depth_of, inner), default=0)


def empties_of(value: Any) -> int:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return (isinstance(value, dict | list) and not value) + sum(map(empties_of, inner))


@given(VALUES, st.integers(1, 9))
def test_values_are_counted_in_pieces_of_any_length(value: Any, size: int) -> None:
    text = orjson.dumps(value)
    meter = JsonMeter()
    for begin in range(0, len(text), size):
        meter.feed(text[begin : begin + size])
    assert meter.values == values_of(value) + empties_of(value)
    assert meter.depth == 0
    assert meter.is_json


@given(VALUES, st.integers(1, 9), st.integers(0, 3))
def test_levels_are_counted_exactly_where_it_matters(value: Any, size: int, most: int) -> None:
    text = orjson.dumps(value)
    meter = JsonMeter(deepest=most)

    def feed() -> None:
        for begin in range(0, len(text), size):
            meter.feed(text[begin : begin + size])

    if depth_of(value) <= most:
        feed()
    else:
        with pytest.raises(TooMuchJson):
            feed()


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(b"[%s]" % b",".join([b"{}"] * 400_000), id="objects"),
        pytest.param(b"[%s]" % b",".join([b"[]"] * 7_000_000), id="20-MB-of-arrays"),
        pytest.param(b"[%s]" % b",".join([b"1"] * 400_000), id="numbers"),
        pytest.param(b"[%s]" % b",".join([b'"a"'] * 400_000), id="strings"),
        pytest.param(b"{%s}" % b",".join([b'"a":0'] * 400_000), id="pairs"),
        pytest.param(b"[" * 1_000_000, id="never-closed"),
    ],
)
def test_too_much_is_refused_before_anything_is_made(
    text: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    parsed: list[bytes] = []
    monkeypatch.setattr(orjson, "loads", parsed.append)
    with pytest.raises(TooMuchJson) as caught:
        read_json(text)
    assert caught.value.status == 400
    assert not parsed


def test_the_first_excess_ends_the_count(monkeypatch: pytest.MonkeyPatch) -> None:
    fed = 0
    feed = JsonMeter.feed

    def counting(self: JsonMeter, piece: bytes) -> None:
        nonlocal fed
        fed += len(piece)
        feed(self, piece)

    monkeypatch.setattr(JsonMeter, "feed", counting)
    with pytest.raises(TooMuchJson):
        check_json(b"[%s]" % b",".join([b"[]"] * 7_000_000))
    assert fed < 2 * 1024 * 1024
    fed = 0
    check_json(b'"' * 20_000_000)  # which no parser reads past the third byte
    assert fed <= 2 * json_bounds.SLICE


@pytest.mark.parametrize(
    "text",
    [
        b'"%s"' % (b"[{,}]," * 1_000_000),  # all of it in one string
        b'"%s"' % (b'\\"[{,' * 1_000_000),
        b'"%s"' % (b"\\\\" * 1_000_000),
        b"[%s]" % b",".join([b'{"role":"user","content":"hello"}'] * 10_000),
        b"[" * 512 + b"]" * 512,
    ],
)
def test_what_people_send_is_read(text: bytes) -> None:
    assert read_json(text) == orjson.loads(text)


def test_as_many_values_are_allowed_as_the_length_says() -> None:
    assert most_values(0) == 50_000
    assert most_values(1_600_000) == 150_000
    assert most_values(20 * 1024 * 1024) == 400_000
    text = b"[%s]" % b",".join([b"1"] * 50_000)
    check_json(text)
    with pytest.raises(TooMuchJson, match="at most"):
        check_json(text[:-1] + b",1" * 20_000 + b"]")


def test_the_collector_is_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    states: list[bool] = []
    loads = orjson.loads

    def spying(body: bytes) -> object:
        states.append(gc.isenabled())
        return loads(body)

    monkeypatch.setattr(orjson, "loads", spying)
    long = b"[%s]" % (b"1," * 40_000 + b"1")
    read_json(long)
    assert gc.isenabled()
    with pytest.raises(InvalidRequest):
        read_json(long[:-1])
    assert gc.isenabled()
    assert states == [False, False]


def test_an_error_does_not_keep_the_text() -> None:
    body = bytearray(b'"' + b"x" * 100_000)
    with pytest.raises(InvalidRequest) as caught:
        read_json(body)
    assert caught.value.__context__ is None
    body.clear()  # would raise BufferError if a traceback had hold of it
    dense = bytearray(b"[%s]" % b",".join([b"1"] * 400_000))
    with pytest.raises(TooMuchJson) as refused:
        read_json(dense)
    assert refused.value.__traceback__ is not None
    dense.clear()


@pytest.mark.parametrize(
    ("text", "width"),
    [
        ("hello " * 20_000, 1),
        ("\u4f60\u597d" * 20_000, 2),
        ("hello " * 20_000 + "\U0001f600", 4),
        ("\U0001f600" * 30_000, 4),
    ],
)
def test_the_memory_of_a_text_is_that_of_its_characters(text: str, width: int) -> None:
    """As it is in bytes, and as CPython holds it: one emoji makes all of it four times as wide."""
    body = f'"{text}"'.encode()
    memory = check_json(body)
    assert memory >= COPIES * len(body) + sys.getsizeof(text) - 100
    assert memory <= COPIES * len(body) + width * (len(text) + 2) + VALUE_BYTES
