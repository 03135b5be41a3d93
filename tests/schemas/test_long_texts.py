"""JSON with long texts: the same value, and the same fault, as the parser alone finds; in no more
memory than the text and its strings."""

from __future__ import annotations

import json
import tracemalloc
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ccapi.schemas import long_texts

MIB = 1024 * 1024
FILL = "hello, " * 30_000

TEXTS = {
    "plain": FILL,
    "one emoji at the end": FILL + "\U0001f600",
    "emojis": "\U0001f600" * 100_000,
    "an emoji here and there": ("\U0001f600" + "hello, " * 20) * 4000,
    "Chinese": "\u4f60\u597d" * 100_000,
    "quotes and backslashes": ('say "\\\\hello\\"\n' * 20_000),
    "hexadecimal": "deadbeef" * 40_000,
    "controls": "\0\x1f\u2028 " * 60_000,
}


@pytest.mark.parametrize("ascii_only", [True, False])
@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_the_value_is_the_same(text: str, ascii_only: bool) -> None:
    value = {"model": "m", "messages": [{"content": text}, 1, [text, "x"]], "text": text}
    body = json.dumps(value, ensure_ascii=ascii_only).encode()
    assert long_texts.parse(body) == value
    assert long_texts.parse(bytearray(body)) == value


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(f'{{"{FILL}": 1}}', id="a long name"),
        pytest.param(f'{{"a": 1, "b": "{FILL}", "a": "{FILL.upper()}"}}', id="a name twice"),
        pytest.param(f'{{"a": "{FILL}", "a": "{FILL.upper()}"}}', id="long twice"),
        pytest.param(f"[{' ' * 300_000}1]", id="space"),
        pytest.param("[" + "1,\n" * 100_000 + "1]", id="numbers"),
    ],
)
def test_what_is_no_long_text_is_read_too(body: str) -> None:
    assert long_texts.parse(body.encode()) == orjson.loads(body)


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b'"%s\n%s"' % (b"g" * 200_000, b"g" * 200_000), id="a line break"),
        pytest.param(b'"%s\\x%s"' % (b"g" * 200_000, b"g" * 200_000), id="no escape"),
        pytest.param(b'"%s\\ud83d%s"' % (b"g" * 200_000, b"g" * 200_000), id="half a pair"),
        pytest.param(b'"%s\xf0\x9f%s"' % (b"g" * 200_000, b"g" * 200_000), id="half a character"),
        pytest.param(b'"%s' % (b"g" * 200_000), id="no end"),
        pytest.param(b'["%s", }' % (b"g" * 200_000), id="a fault behind it"),
        pytest.param(b"[%s]" % (b"g" * 200_000), id="no string"),
    ],
)
def test_a_fault_is_the_parser_s_own(body: bytes) -> None:
    with pytest.raises(orjson.JSONDecodeError) as expected:
        orjson.loads(body)
    with pytest.raises(orjson.JSONDecodeError) as caught:
        long_texts.parse(bytearray(body))
    assert str(caught.value) == str(expected.value)


ITEMS = st.sampled_from(
    [
        r"\n",
        r"\\",
        r"\"",
        r"\ud83d\ude00",
        r"\ud83d",
        r"\u00e9",
        "\\",
        "\x01",
        "\U0001f600",
        "\u4f60",
    ]
) | st.sampled_from([*'az /",[}: ', "zz", '":"'])


@given(st.lists(st.tuples(ITEMS, st.integers(1, 9)), max_size=12), st.integers(1, 6))
def test_whatever_stands_in_it_is_read_as_the_parser_does(
    bits: list[tuple[str, int]], size: int
) -> None:
    text = "".join(bit * count for bit, count in bits)
    body = f'{{"a":"{text}"}}'.encode()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(long_texts, "SLICE", size)
        patch.setattr(long_texts, "PIECE", 2 * size)
        patch.setattr(long_texts, "_WINDOW", size)
        assert outcome(long_texts.parse, body) == outcome(orjson.loads, body)


def outcome(parse: Any, body: bytes) -> Any:
    try:
        return parse(body)
    except orjson.JSONDecodeError as error:
        return str(error)


@pytest.mark.parametrize("place", [0, 1, 2])
def test_it_takes_the_text_and_its_string(place: int) -> None:
    text = ["hello, " * (4 * MIB // 7)] * 2
    text.insert(place, "\U0001f600")
    body = bytearray(orjson.dumps("".join(text)))
    del text
    tracemalloc.start()
    value = long_texts.parse(body)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert not body
    assert len(value) > 8 * 1000 * 1000
    assert peak < 5.5 * len(value), "four bytes a character, and the text once"
