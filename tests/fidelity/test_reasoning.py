"""What the model thinks: told when it is asked for, counted always."""

from __future__ import annotations

from typing import Any

import pytest
from attrs import frozen

from tests.support.messages_stub import Reply, Text, Thinking, Usage

from .served import JSON, Served, Streamed, Whole, system, user


@frozen
class ThoughtUsage(Usage):
    """With what of the output was thinking, as the API tells it."""

    def document(self) -> JSON:
        return super().document() | {"output_tokens_details": {"thinking_tokens": 3}}


THOUGHT = Reply((Thinking("It is so. Or not?", 3), Text("Yes.", 2)), usage=ThoughtUsage())
MODEL = "claude-opus-4-8"


@pytest.fixture(scope="module")
def conversation(shared: Served) -> str:
    """One that the tests of this module go on with. Its child shows what it thinks, once it was
    asked to: whoever does not ask is not to be told all the same."""
    shared.begin()
    shared.answers(THOUGHT)
    return shared.ask(user("Is it?"), model=MODEL, include_reasoning=True).conversation_id


def ask(house: Served, conversation: str, **fields: Any) -> Streamed:
    house.answers(THOUGHT)
    answer = house.stream(user("Is it?"), model=MODEL, conversation_id=conversation, **fields)
    assert answer.text == "Yes."
    assert answer.finish_reasons == ["stop"]
    assert answer.chunks
    return answer


def ask_whole(house: Served, conversation: str, **fields: Any) -> Whole:
    house.answers(THOUGHT)
    return house.ask(user("Is it?"), model=MODEL, conversation_id=conversation, **fields)


def thoughts(answer: Streamed) -> list[str]:
    return [delta["reasoning_content"] for delta in answer.deltas if "reasoning_content" in delta]


@pytest.mark.parametrize("fields", [{}, {"include_reasoning": False, "reasoning_effort": "high"}])
def test_it_is_not_sent_unasked(house: Served, conversation: str, fields: JSON) -> None:
    assert thoughts(ask(house, conversation, **fields)) == []
    assert "reasoning_content" not in ask_whole(house, conversation, **fields).message


@pytest.mark.parametrize(
    "fields",
    [{"include_reasoning": True}, {"reasoning_effort": "low"}, {"reasoning": {"effort": "high"}}],
)
def test_it_is_sent_when_asked_for(house: Served, conversation: str, fields: JSON) -> None:
    answer = ask(house, conversation, **fields)
    assert len(thoughts(answer)) == 3, "piece by piece"
    assert "".join(thoughts(answer)) == "It is so. Or not?"
    order = ["reasoning_content" in delta for delta in answer.deltas if any(delta.values())]
    assert order.index(True) < len(order) - 1 - order[::-1].index(False), "before the answer"
    whole = ask_whole(house, conversation, **fields)
    assert whole.message["reasoning_content"] == "It is so. Or not?"
    assert whole.text == "Yes."


def test_it_is_asked_of_the_api_as_text(house: Served, conversation: str) -> None:
    ask(house, conversation, include_reasoning=True)
    assert house.last.body["thinking"]["type"] == "adaptive"
    assert house.last.body["thinking"].get("display") == "summarized"


def test_it_is_counted(house: Served, conversation: str) -> None:
    answer = ask(house, conversation, stream_options={"include_usage": True})
    usage = answer.events[-1]["usage"]
    assert usage["completion_tokens_details"]["reasoning_tokens"] == 3
    assert usage["completion_tokens"] == 5


def test_it_is_no_part_of_the_history(house: Served) -> None:
    house.answers(THOUGHT)
    first = house.ask(system("thoughts"), user("Is it?"), model=MODEL, include_reasoning=True)
    told = {"role": "assistant", "content": "Yes.", "reasoning_content": "It is so. Or not?"}
    again = house.ask(system("thoughts"), user("Is it?"), told, user("Sure?"), model=MODEL)
    assert again.headers["x-ccapi-lineage"] == "hit"
    assert again.conversation_id == first.conversation_id
