"""A tool that has to be called, with a model that cannot be made to call one: it is asked in words,
once more if it does not, and the words are nowhere afterwards."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.support.messages_stub import ToolUse, call, say

from .served import JSON, Served, Whole, assistant, called, function, spoken, tool, user

MODEL = "sonnet"
CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOLS = [function("get_weather", CITY), function("get_time")]
NAMED = {"type": "function", "function": {"name": "get_weather"}}
PARIS = ToolUse("get_weather", {"city": "Paris"}, "toolu_paris")
CLOCK = ToolUse("get_time", {}, "toolu_clock")
CHOICES = pytest.mark.parametrize("choice", [NAMED, "required"], ids=["named", "required"])

OURS = "[From the application"


def words(served: Served, request: int = -1) -> str:
    """The gateway's own line in a request, which is the last of the last message."""
    messages = spoken(served.requests[request])
    assert all(OURS not in str(block) for _, blocks in messages[:-1] for block in blocks)
    *others, last = messages[-1][1]
    assert all(OURS not in str(block) for block in others)
    assert last.startswith(OURS)
    return str(last)


def ask(served: Served, *messages: JSON, **fields: Any) -> Whole:
    return served.ask(*messages, **{"model": MODEL, "tools": TOOLS, **fields})


def fate(answer: Any) -> str | None:
    told: str | None = answer.headers.get("x-ccapi-tool-choice")
    return told


@CHOICES
def test_the_model_is_asked_in_words(served: Served, choice: Any) -> None:
    served.answers(call(PARIS))
    answer = ask(served, user("Paris?"), tool_choice=choice)
    assert answer.finish_reason == "tool_calls"
    assert [each["id"] for each in answer.calls] == ["toolu_paris"]
    assert fate(answer) == "asked"
    assert "tool_choice" not in answer.headers.get("x-ccapi-ignored", "")
    assert "You must call" in words(served)
    assert ("`get_weather`" in words(served)) == (choice is NAMED)
    assert "tool_choice" not in served.last.body
    assert len(served.requests) == 1


@CHOICES
def test_the_words_are_for_one_turn(served: Served, choice: Any) -> None:
    """They are in no later request, and a client that brings the history comes to the same
    child."""
    served.answers(call(PARIS))
    first = ask(served, user("Paris?"), tool_choice=choice)
    made = first.calls[0]
    history = [user("Paris?"), assistant(None, made), tool("toolu_paris", "sunny")]
    second = ask(served, *history)
    assert second.headers["x-ccapi-lineage"] == "hit"
    assert second.conversation_id == first.conversation_id
    assert fate(second) is None
    assert spoken(served.last) == [
        ("user", ["Paris?"]),
        ("assistant", [("toolu_paris", "get_weather", {"city": "Paris"})]),
        ("user", [("toolu_paris", ["sunny"], False)]),
    ]
    third = ask(served, *history, assistant(second.text), user("Thanks"))
    assert third.headers["x-ccapi-lineage"] == "hit"
    assert OURS not in json.dumps(served.last.body)
    assert len(served.adopted(first.conversation_id)) == 1
    items = served.get(f"/v1/conversations/{first.conversation_id}/items")
    assert OURS not in json.dumps(items)


@CHOICES
@pytest.mark.parametrize("stream", [False, True])
def test_a_model_that_answers_in_text_is_asked_once_more(
    served: Served, choice: Any, stream: bool
) -> None:
    served.answers(say("It is sunny.", chunks=3), call(PARIS, text="Let me see."))
    fields = {"model": MODEL, "tools": TOOLS, "tool_choice": choice}
    answer = (served.stream if stream else served.ask)(user("Paris?"), **fields)
    assert [each["id"] for each in answer.calls] == ["toolu_paris"]
    assert answer.text == "Let me see."
    assert fate(answer) == "asked-again"
    first, second = words(served, 0), words(served, 1)
    assert first != second
    assert len(spoken(served.requests[1])) == 1  # the first answer is not in it
    assert len(served.adopted(answer.conversation_id)) == 1


@CHOICES
@pytest.mark.parametrize("stream", [False, True])
def test_one_that_does_not_call_then_either_has_its_text_delivered(
    served: Served, choice: Any, stream: bool
) -> None:
    served.answers(say("It is sunny."), say("It is rather sunny.", chunks=40))
    fields = {"model": MODEL, "tools": TOOLS, "tool_choice": choice}
    answer = (served.stream if stream else served.ask)(user("Paris?"), **fields)
    assert (answer.text, answer.calls) == ("It is rather sunny.", [])
    assert fate(answer) == "not-called"
    assert len(served.requests) == 2
    after = ask(served, user("Paris?"), assistant("It is rather sunny."), user("Sure?"))
    assert after.headers["x-ccapi-lineage"] == "hit"
    assert spoken(served.last)[:2] == [("user", ["Paris?"]), ("assistant", ["It is rather sunny."])]


def test_the_tokens_of_both_answers_are_counted(served: Served) -> None:
    served.answers(say("No."), call(PARIS))
    answer = ask(served, user("Paris?"), tool_choice="required")
    assert answer.completion.usage is not None
    assert answer.completion.usage.completion_tokens == 10
    assert answer.completion.usage.prompt_tokens == 20


def test_another_tool_than_the_named_one_is_not_it(served: Served) -> None:
    served.answers(call(CLOCK), call(PARIS))
    answer = ask(served, user("Paris?"), tool_choice=NAMED)
    assert [each["id"] for each in answer.calls] == ["toolu_paris"]
    assert fate(answer) == "asked-again"


def test_results_may_come_with_another_wish(served: Served) -> None:
    served.answers(call(CLOCK), call(PARIS))
    first = ask(served, user("Paris?"), tool_choice="required")
    second = ask(
        served,
        user("Paris?"),
        assistant(None, *first.calls),
        tool("toolu_clock", "noon"),
        tool_choice="required",
    )
    assert second.headers["x-ccapi-lineage"] == "hit"
    assert [each["id"] for each in second.calls] == ["toolu_paris"]
    assert words(served)
    assert spoken(served.last)[-1][1][0] == ("toolu_clock", ["noon"], False)


def test_results_that_a_child_waits_for_may_come_with_a_wish(served: Served) -> None:
    served.answers(call(CLOCK), call(PARIS))
    first = ask(served, user("Paris?"))
    served.wait_phase(first.conversation_id, "awaiting_tools")
    second = ask(
        served,
        tool("toolu_clock", "noon"),
        conversation_id=first.conversation_id,
        tool_choice=NAMED,
    )
    assert [each["id"] for each in second.calls] == ["toolu_paris"]
    assert spoken(served.last)[-1][1][0] == ("toolu_clock", ["noon"], False)
    assert words(served)


def test_a_model_that_can_be_forced_is_not_asked_in_words(served: Served) -> None:
    served.answers(call(PARIS))
    answer = served.ask(user("Paris?"), tools=TOOLS, tool_choice="required")
    assert fate(answer) is None
    assert served.last.body["tool_choice"] == {"type": "any"}
    assert OURS not in json.dumps(served.last.body)


def test_a_picture_or_a_slash_before_the_words(served: Served) -> None:
    served.answers(call(PARIS))
    ask(served, user("/help me"), tool_choice=NAMED)
    assert spoken(served.last)[-1][1][0] == "/help me"


def test_a_history_that_is_replayed_first(served: Served) -> None:
    said = [user("a"), assistant(None, called("c", "get_time", {})), tool("c", "noon")]
    served.answers(call(PARIS))
    ask(served, *said, assistant("It is noon."), user("Paris?"), tool_choice=NAMED)
    assert words(served)
    assert [role for role, _ in spoken(served.last)] == ["user", "assistant"] * 2 + ["user"]


def test_responses_say_so_too(served: Served) -> None:
    served.answers(say("Sunny."), call(PARIS))
    flat = [{"type": "function", **each["function"]} for each in TOOLS]
    body = {"model": MODEL, "input": "Paris?", "tools": flat, "tool_choice": "required"}
    answer = served.post("/v1/responses", body)
    assert answer.status_code == 200
    assert [item["type"] for item in answer.json()["output"]] == ["function_call"]
    assert answer.headers["x-ccapi-tool-choice"] == "asked-again"
