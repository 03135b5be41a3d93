"""Items of an answer, put together."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ccapi.schemas.turn_items import (
    ActivityDelta,
    ActivityEnded,
    ActivityStarted,
    Gathering,
    ReasoningDelta,
    TextDelta,
    ToolCallDelta,
    ToolCallStarted,
    TurnItem,
    compact,
)

ITEMS: st.SearchStrategy[TurnItem] = st.one_of(
    st.builds(TextDelta, st.text(max_size=3)),
    st.builds(ReasoningDelta, st.text(max_size=3)),
    st.builds(ActivityStarted, st.sampled_from("ab"), st.just("Bash")),
    st.builds(ActivityDelta, st.sampled_from("ab"), st.text(max_size=3)),
    st.builds(ActivityEnded, st.sampled_from("ab"), st.text(max_size=3)),
    st.builds(ToolCallDelta, st.just(0), st.text(max_size=3)),
)


def gathered(items: list[TurnItem] | tuple[TurnItem, ...]) -> Gathering:
    said = Gathering()
    for item in items:
        said.add(item)
    return said


@given(st.lists(ITEMS))
def test_a_compact_answer_says_the_same(items: list[TurnItem]) -> None:
    items = [ToolCallStarted(0, "call", "now"), *items]
    small = compact(items)
    assert compact(small) == small
    before, after = gathered(items), gathered(small)
    assert (before.text, before.reasoning) == (after.text, after.reasoning)
    assert before.tool_calls == after.tool_calls
    assert len(small) <= len(items)


def test_only_neighbours_are_joined() -> None:
    assert compact(
        [
            TextDelta("a"),
            TextDelta("b"),
            ActivityStarted("x", "Bash"),
            ActivityDelta("x", "{"),
            ActivityDelta("x", "}"),
            ActivityDelta("y", "{}"),
            ActivityEnded("x", "done"),
            TextDelta("c"),
        ]
    ) == (
        TextDelta("ab"),
        ActivityStarted("x", "Bash"),
        ActivityDelta("x", "{}"),
        ActivityDelta("y", "{}"),
        ActivityEnded("x", "done"),
        TextDelta("c"),
    )
