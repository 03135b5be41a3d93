"""Frames as lines: the same line, whether it is made at once or in pieces."""

from __future__ import annotations

import json
import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ccapi.schemas.claude import lines
from ccapi.schemas.claude.input import assistant, initialize, user
from ccapi.schemas.claude.lines import PIECE, LongLine, encode, line, pieces_of
from ccapi.schemas.json_bytes import LONG
from ccapi.schemas.message import Image, ToolCall
from ccapi.schemas.turn import Setup

FILL = "hello, " * (LONG // 7 + 1)

LONG_TEXTS = {
    "plain": FILL,
    "one emoji": "\U0001f600" + FILL * 3,
    "emojis": "\U0001f600" * LONG,
    "quotes": '"\\\n' * LONG,
    "half a pair": "x\ud800" + FILL,
    "half pairs at every border": "\ud83d" * (LONG * 2),
    "controls": "\0\x1f\u2028" * LONG,
}


@pytest.mark.parametrize("text", LONG_TEXTS.values(), ids=LONG_TEXTS)
def test_a_long_text_reaches_the_child_exactly(text: str) -> None:
    frame = {"a": "first", "text": text, "deep": [{"again": text}, 1, None, True, "last"]}
    made = line(frame)
    assert isinstance(made, LongLine)
    pieces = [*pieces_of(made)]
    whole = b"".join(pieces)
    assert whole.count(b"\n") == 1
    assert whole.endswith(b"\n")
    assert json.loads(whole) == frame
    assert max(map(len, pieces)) <= PIECE + 6 * 32 * 1024 + 1024
    assert bytes(made) == whole


@given(st.recursive(st.text() | st.integers() | st.none(), lambda s: st.lists(s, max_size=3)))
def test_whatever_is_beside_a_long_text_stays_as_it_is(value: Any) -> None:
    frame = {"value": value, "text": FILL}
    assert json.loads(bytes(line(frame))) == frame
    short = {"value": value}
    assert line(short) == encode(short)


def test_a_line_that_is_written_in_pieces_takes_no_memory_of_its_own() -> None:
    text = "\U0001f600" + FILL * 60  # 4 MB, which are 16 MB in memory
    made = user("u", [text])
    tracemalloc.start()
    try:
        length = sum(map(len, pieces_of(made)))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert length > len(text)
    assert peak < 4 * PIECE


def test_long_messages_and_prompts_are_made_when_they_are_written(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def never(_: object) -> bytes:
        raise AssertionError("made at once")

    monkeypatch.setattr(lines, "_dumps", never)
    picture = Image("image/png", "A" * LONG)
    call = ToolCall("t", "now", json.dumps({"text": FILL}))
    for made in (
        user("u", [FILL]),
        user("u", ["x", picture]),
        user("u", ["many"] * 20_000),  # parts that are short
        assistant("u", [call], "m"),
        initialize("r", Setup("m", FILL)),
    ):
        assert isinstance(made, LongLine)
