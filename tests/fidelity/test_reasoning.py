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
    asked to: a client that does not ask must not receive it all the same."""
    shared.begin()
    shared.answers(THOUGHT)
    return shared.ask(user("Is it?"), model=MODEL, include_reasoning=True).conversation_id


def ask(served: Served, conversation: str, **fields: Any) -> Streamed:
    served.answers(THOUGHT)
    answer = served.stream(user("Is it?"), model=MODEL, conversation_id=conversation, **fields)
    assert answer.text == "Yes."
    assert answer.finish_reasons == ["stop"]
    assert answer.chunks
    return answer


def ask_whole(served: Served, conversation: str, **fields: Any) -> Whole:
    served.answers(THOUGHT)
    return served.ask(user("Is it?"), model=MODEL, conversation_id=conversation, **fields)


def thoughts(answer: Streamed) -> list[str]:
    return [delta["reasoning_content"] for delta in answer.deltas if "reasoning_content" in delta]


@pytest.mark.parametrize("fields", [{}, {"include_reasoning": False, "reasoning_effort": "high"}])
def test_it_is_not_sent_unasked(served: Served, conversation: str, fields: JSON) -> None:
    assert thoughts(ask(served, conversation, **fields)) == []
    assert "reasoning_content" not in ask_whole(served, conversation, **fields).message


@pytest.mark.parametrize(
    "fields",
    [{"include_reasoning": True}, {"reasoning_effort": "low"}, {"reasoning": {"effort": "high"}}],
)
def test_it_is_sent_when_asked_for(served: Served, conversation: str, fields: JSON) -> None:
    answer = ask(served, conversation, **fields)
    assert len(thoughts(answer)) == 3, "piece by piece"
    assert "".join(thoughts(answer)) == "It is so. Or not?"
    order = ["reasoning_content" in delta for delta in answer.deltas if any(delta.values())]
    assert order.index(True) < len(order) - 1 - order[::-1].index(False), "before the answer"
    whole = ask_whole(served, conversation, **fields)
    assert whole.message["reasoning_content"] == "It is so. Or not?"
    assert whole.text == "Yes."


def test_it_is_asked_of_the_api_as_text(served: Served, conversation: str) -> None:
    ask(served, conversation, include_reasoning=True)
    assert served.last.body["thinking"]["type"] == "adaptive"
    assert served.last.body["thinking"].get("display") == "summarized"


def test_it_is_counted(served: Served, conversation: str) -> None:
    answer = ask(served, conversation, stream_options={"include_usage": True})
    usage = answer.events[-1]["usage"]
    assert usage["completion_tokens_details"]["reasoning_tokens"] == 3
    assert usage["completion_tokens"] == 5


def test_it_is_no_part_of_the_history(served: Served) -> None:
    served.answers(THOUGHT)
    first = served.ask(system("thoughts"), user("Is it?"), model=MODEL, include_reasoning=True)
    told = {"role": "assistant", "content": "Yes.", "reasoning_content": "It is so. Or not?"}
    again = served.ask(system("thoughts"), user("Is it?"), told, user("Sure?"), model=MODEL)
    assert again.headers["x-ccapi-lineage"] == "hit"
    assert again.conversation_id == first.conversation_id
