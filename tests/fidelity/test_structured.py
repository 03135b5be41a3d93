"""Answers that have to suit a schema: valid JSON or an error, never anything in between."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.support.messages_stub import ToolUse, call, say

from .served import JSON, Served, assistant, function, spoken, tool, user

NUMBER: JSON = {
    "type": "object",
    "properties": {"a": {"type": "integer"}, "why": {"type": "string"}},
    "required": ["a"],
    "additionalProperties": False,
}
RIGHT = {"a": 5, "why": "because é 🦀"}
WRONG = {"a": "five"}
ANSWER = "StructuredOutput"


def wanted(schema: JSON, **fields: Any) -> JSON:
    return {
        "type": "json_schema",
        "json_schema": {"name": "answer", "schema": schema, "strict": True, **fields},
    }


FORMAT = wanted(NUMBER)


def give(*values: JSON) -> Any:
    return call(*(ToolUse(ANSWER, value) for value in values))


def test_a_whole_answer(served: Served) -> None:
    served.answers(give(RIGHT))
    answer = served.ask(user("Number?"), response_format=FORMAT)
    assert json.loads(answer.text or "") == RIGHT
    assert (answer.finish_reason, answer.calls) == ("stop", [])
    assert answer.completion.usage
    (offered,) = served.last.body["tools"]
    assert offered["input_schema"] == NUMBER
    assert served.last.body["tool_choice"] == {"type": "tool", "name": ANSWER}
    assert served.last.body["thinking"] == {"type": "disabled"}
    assert len(served.requests) == 1


def test_a_streamed_answer(served: Served) -> None:
    served.answers(give(RIGHT))
    answer = served.stream(user("Number?"), response_format=FORMAT)
    assert json.loads(answer.text) == RIGHT
    assert len(answer.pieces) == 2, "as the model gives them"
    assert (answer.finish_reasons, answer.calls) == (["stop"], [])
    assert answer.chunks


def test_any_object(served: Served) -> None:
    served.answers(give({"x": [1, {}]}))
    answer = served.ask(user("JSON!"), response_format={"type": "json_object"})
    assert json.loads(answer.text or "") == {"x": [1, {}]}


@pytest.mark.parametrize("later", [{}, {"response_format": FORMAT}])
def test_the_model_reads_its_answer_as_the_client_does(served: Served, later: JSON) -> None:
    served.answers(give(RIGHT))
    answer = served.ask(user("Number?"), response_format=FORMAT)
    served.answers(give(RIGHT) if later else say("You are welcome."))
    again = served.ask(user("Thanks"), conversation_id=answer.conversation_id, **later)
    assert again.finish_reason == "stop"
    assert spoken(served.last) == [
        ("user", ["Number?"]),
        ("assistant", [answer.text]),
        ("user", ["Thanks"]),
    ]
    assert served.last.tools == ([ANSWER] if later else [])


def test_the_form_may_change_in_one_child_by_the_history_alone(served: Served) -> None:
    """It is each turn's own: no other child, and no other conversation."""
    first = served.ask(user("Hello"))
    said = [user("Hello"), assistant(first.text), user("Number?")]
    served.answers(give(RIGHT))
    formed = served.ask(*said, response_format=FORMAT)
    said += [assistant(formed.text), user("Thanks")]
    served.wait_phase(first.conversation_id, "idle")
    plain = served.ask(*said)
    for answer in (formed, plain):
        assert answer.headers["x-ccapi-lineage"] == "hit"
        assert answer.conversation_id == first.conversation_id
    assert len(served.adopted(first.conversation_id)) == 1
    assert [request.tools for request in served.requests] == [[], [ANSWER], []]
    assert [texts for _, texts in spoken(served.last)][3] == [formed.text]


def test_what_is_said_beside_the_answer_is_not_part_of_it(served: Served) -> None:
    served.answers(call(ToolUse(ANSWER, RIGHT), text="Here you are: "))
    answer = served.stream(user("Number?"), response_format=FORMAT)
    assert json.loads(answer.text) == RIGHT


def test_a_wrong_answer_is_asked_for_again(served: Served) -> None:
    served.answers(give(WRONG), give(RIGHT))
    answer = served.ask(user("Number?"), response_format=FORMAT)
    assert json.loads(answer.text or "") == RIGHT
    told = spoken(served.last)[-1][1][0]
    assert told[2], "the model hears that it was wrong"
    assert "integer" in told[1][0]
    again = served.ask(user("Thanks"), conversation_id=answer.conversation_id)
    assert again.finish_reason == "stop"
    assert spoken(served.last) == [
        ("user", ["Number?"]),
        ("assistant", [answer.text]),
        ("user", ["Thanks"]),
    ]


def test_a_wrong_answer_that_was_streamed_is_an_error(served: Served) -> None:
    first = served.ask(user("Hello"))
    served.answers(give(WRONG), give(RIGHT))
    answer = served.stream(
        user("Number?"), response_format=FORMAT, conversation_id=first.conversation_id
    )
    assert answer.error["code"] == "invalid_structured_output"
    assert answer.finish_reasons == []
    served.begin()
    served.ask(user("Still there?"), conversation_id=first.conversation_id)
    assert spoken(served.last)[1:] == [
        ("assistant", ["turn 1: Hello"]),
        ("user", ["Still there?"]),
    ]


@pytest.mark.parametrize("answers", [[give(WRONG)] * 9, [say("I would rather not.")] * 9])
def test_no_answer_is_an_error(served: Served, answers: list[Any]) -> None:
    first = served.ask(user("Hello"))
    served.answers(*answers)
    answer = served.ask(
        user("Number?"), response_format=FORMAT, conversation_id=first.conversation_id
    )
    assert answer.status == 502
    assert answer.error["code"] == "invalid_structured_output"
    served.begin()
    served.ask(user("Still there?"), conversation_id=first.conversation_id)
    assert spoken(served.last)[1:] == [
        ("assistant", ["turn 1: Hello"]),
        ("user", ["Still there?"]),
    ]


def test_an_answer_that_is_cut_is_no_answer(served: Served) -> None:
    served.answers(call(ToolUse(ANSWER, RIGHT), stop_reason="max_tokens", cut_after=None))
    answer = served.ask(user("Number?"), response_format=FORMAT, max_tokens=5)
    assert answer.finish_reason == "length"


def test_together_with_tools(served: Served) -> None:
    fields: JSON = {"tools": [function("look")], "response_format": FORMAT}
    served.answers(call(ToolUse("look", {}, "toolu_look")))
    answer = served.stream(user("Look, then say"), **fields)
    assert answer.finish_reasons == ["tool_calls"]
    assert [each["function"]["name"] for each in answer.calls] == ["look"]
    assert set(served.last.tools) == {"look", ANSWER}
    assert served.last.body["tool_choice"] == {"type": "any"}
    served.answers(give(RIGHT))
    conversation = answer.conversation_id
    answer = served.stream(tool("toolu_look", "five"), conversation_id=conversation, **fields)
    assert json.loads(answer.text) == RIGHT
    assert answer.finish_reasons == ["stop"]
    assert len(served.adopted(conversation)) == 1
    served.stream(user("Thanks"), conversation_id=conversation, **fields)
    assert spoken(served.requests[2]) == [
        ("user", ["Look, then say"]),
        ("assistant", [("toolu_look", "look", {})]),
        ("user", [("toolu_look", ["five"], False)]),
        ("assistant", [answer.text]),
        ("user", ["Thanks"]),
    ]


def test_a_tool_of_the_same_name(served: Served) -> None:
    fields: JSON = {"tools": [function(ANSWER)], "response_format": FORMAT}
    served.answers(give(RIGHT))
    answer = served.ask(user("Number?"), **fields)
    assert json.loads(answer.text or "") == RIGHT
    assert len(set(served.last.tools)) == 2


ODD_SCHEMAS: dict[str, JSON] = {
    "dialect": {"$schema": "https://json-schema.org/draft/2020-12/schema", **NUMBER},
    "definitions": {
        "type": "object",
        "properties": {"a": {"$ref": "#/$defs/whole"}, "why": {"type": ["string", "null"]}},
        "$defs": {"whole": {"type": "integer", "title": "Whole"}},
    },
    "discriminator": {
        "type": "object",
        "properties": {
            "a": {
                "oneOf": [{"type": "integer"}, {"type": "object"}],
                "discriminator": {"propertyName": "kind"},
            }
        },
        "unevaluatedProperties": False,
    },
}


@pytest.mark.parametrize("name", list(ODD_SCHEMAS))
def test_schemas_reach_the_model_as_they_are(served: Served, name: str) -> None:
    served.answers(give({"a": 1}))
    answer = served.ask(user("Number?"), response_format=wanted(ODD_SCHEMAS[name]))
    assert json.loads(answer.text or "") == {"a": 1}
    assert served.last.body["tools"][0]["input_schema"] == ODD_SCHEMAS[name]


def test_what_is_no_schema_is_refused(served: Served) -> None:
    answer = served.ask(user("?"), response_format=wanted({"type": "object", "properties": 5}))
    assert answer.status == 400
    assert answer.error["param"] == "response_format.json_schema.schema"
    assert served.requests == []
