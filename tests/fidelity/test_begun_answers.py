"""A last message of the assistant's: the model goes on with it, or the client receives the
reason."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.support.messages_rules import broken_rule
from tests.support.messages_stub import ToolUse, call, say

from .served import JSON, MODEL, Served, assistant, called, function, spoken, system, tool, user

ASKED = [user("A poem"), assistant("Roses are  ")]


@pytest.mark.parametrize("stream", [False, True])
def test_the_model_goes_on_with_it(served: Served, stream: bool) -> None:
    served.answers(say("red."))
    answer = (served.stream if stream else served.ask)(system("Be brief."), *ASKED)
    assert answer.text == "red."
    body = served.last.body
    assert spoken(served.last) == [("user", ["A poem"]), ("assistant", ["Roses are"])]
    assert "Be brief." in served.last.system
    assert body["thinking"] == {"type": "disabled"}
    assert broken_rule(body) is None


def test_the_conversation_holds_both_parts(served: Served) -> None:
    served.answers(say("red."))
    first = served.ask(*ASKED)
    second = served.ask(*ASKED, assistant("red."), user("More"))
    assert second.headers["x-ccapi-lineage"] == "hit"
    assert second.conversation_id == first.conversation_id
    assert spoken(served.last) == [
        ("user", ["A poem"]),
        ("assistant", ["Roses are  ", "red."]),
        ("user", ["More"]),
    ]
    assert broken_rule(served.last.body) is None
    assert len(served.adopted(first.conversation_id)) == 1
    third = served.ask(user("And?"), conversation_id=first.conversation_id)
    assert third.status == 200


def test_a_whole_history_before_it(served: Served) -> None:
    look = called("c1", "look", {})
    said = [user("a"), assistant(None, look), tool("c1", "blue"), assistant("b"), user("c")]
    served.ask(*said, assistant("It is"), tools=[function("look")])
    assert spoken(served.last) == [
        ("user", ["a"]),
        ("assistant", [("c1", "look", {})]),
        ("user", [("c1", ["blue"], False)]),
        ("assistant", ["b"]),
        ("user", ["c"]),
        ("assistant", ["It is"]),
    ]


def test_it_may_go_on_with_a_call(served: Served) -> None:
    tools = [function("look")]
    served.answers(call(ToolUse("look", {}, "toolu_1"), text="me see."))
    said = [user("?"), assistant("Let")]
    answer = served.ask(*said, tools=tools)
    assert (answer.text, answer.finish_reason) == ("me see.", "tool_calls")
    again = served.ask(
        *said, assistant("me see.", *answer.calls), tool("toolu_1", "blue"), tools=tools
    )
    assert again.status == 200
    assert spoken(served.last)[-1] == ("user", [("toolu_1", ["blue"], False)])


def test_the_next_turn_of_the_child_is_its_own(served: Served) -> None:
    first = served.ask(*ASKED)
    served.ask(user("Hello"), conversation_id=first.conversation_id)
    assert spoken(served.last)[-1] == ("user", ["Hello"])
    assert "The answer goes on" not in json.dumps(served.last.body)


@pytest.mark.parametrize(
    ("messages", "fields", "param"),
    [
        (ASKED, {"model": "sonnet"}, "messages[1].role"),
        (ASKED, {"model": "claude-opus-4-8"}, "messages[1].role"),
        (ASKED, {"model": "agent/sonnet"}, "messages[1].role"),
        ([user("a"), assistant("")], {}, "messages[1].role"),
        ([assistant("a")], {}, "messages[0].role"),
        ([user("a"), assistant(None, called("c", "look", {}))], {}, "messages[1].role"),
        (ASKED, {"response_format": {"type": "json_object"}}, "messages[1].role"),
    ],
)
def test_what_cannot_be_gone_on_with(
    served: Served, messages: list[JSON], fields: dict[str, Any], param: str
) -> None:
    answer = served.ask(*messages, **{"model": MODEL, **fields})
    assert (answer.status, answer.error["param"]) == (400, param)
    assert served.requests == []


def test_a_conversation_that_is_named_cannot_be_begun(served: Served) -> None:
    first = served.ask(user("a"))
    answer = served.ask(*ASKED, conversation_id=first.conversation_id)
    assert (answer.status, answer.error["param"]) == (400, "messages[1].role")
