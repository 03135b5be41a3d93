"""What a conversation keeps of its turns, and how large it is."""

from __future__ import annotations

import pytest

from ccapi.actors.watching.history import History, TurnRecord
from ccapi.schemas.message import BESIDE, Message
from ccapi.schemas.turn_items import (
    ActivityDelta,
    ActivityEnded,
    ActivityStarted,
    ReasoningDelta,
    Refused,
    TextDelta,
    ToolCallDelta,
    ToolCallStarted,
    TurnItem,
)


def turn(asked: str, *output: TurnItem) -> TurnRecord:
    return TurnRecord("7c2d6b1e", 0.0, "sonnet", (Message("user", (asked,)),), output)


@pytest.mark.parametrize(
    ("text", "size"), [("", 0), ("ab", 2), ("\xe9\xe9", 4), ("\N{SNOWMAN}", 3), ("\ud800", 3)]
)
def test_a_turn_counts_for_its_texts_in_utf8(text: str, size: int) -> None:
    empty = turn("").size
    assert empty == BESIDE
    assert turn(text).size == empty + size
    for item, more in (
        (TextDelta(text), 0),
        (ReasoningDelta(text), 0),
        (ToolCallStarted(0, "id", text), 2),
        (ToolCallDelta(0, text), 0),
        (Refused(text), 0),
        (ActivityStarted("id", text), 2),
        (ActivityDelta("id", text), 2),
        (ActivityEnded("id", text), 2),
    ):
        assert turn("", item).size == empty + BESIDE + size + more


def test_a_history_is_as_large_as_its_turns() -> None:
    history = History()
    turns = [turn("\xe9" * size, TextDelta("a" * size)) for size in (1, 20, 300)]
    for each in turns:
        history.add(each)
    assert history.size == sum(each.size for each in turns)
    history.forget_oldest()
    assert history.size == turns[1].size + turns[2].size
    assert history.forgotten
    assert history.take_back() == turns[2]
    assert history.size == turns[1].size
