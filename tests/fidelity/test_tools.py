"""Tools: what the model is offered, what it calls, and what it is told came of it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
import trio

from tests.support.messages_stub import Reply, Request, Text, ToolUse, call, say

from .served import (
    JSON,
    Served,
    Whole,
    assistant,
    called,
    function,
    open_served,
    part,
    spoken,
    tool,
    user,
)

CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER = function("get_weather", CITY)
CLOCK = function("get_time")
TOOLS = [WEATHER, CLOCK]
PARIS = ToolUse("get_weather", {"city": "Paris"}, "toolu_paris")
ROME = ToolUse("get_weather", {"city": "Rome"}, "toolu_rome")


def suspend(house: Served, *uses: ToolUse, text: str = "", **fields: Any) -> Whole:
    """A conversation whose model waits for what came of these calls."""
    house.answers(call(*uses, text=text))
    answer = house.ask(user("Weather?"), **{"tools": TOOLS, **fields})
    assert answer.finish_reason == "tool_calls"
    house.wait_phase(answer.conversation_id, "awaiting_tools")
    return answer


def go_on(house: Served, answer: Whole, *messages: JSON, **fields: Any) -> Whole:
    return house.ask(*messages, conversation_id=answer.conversation_id, **fields)


def same_child(house: Served, answer: Whole) -> bool:
    return len(house.adopted(answer.conversation_id)) == 1


# -- offered ---------------------------------------------------------------------------------------


def test_tools_reach_the_model_as_they_are(house: Served) -> None:
    rich = {
        "type": "object",
        "properties": {
            "when": {"anyOf": [{"type": "string", "format": "date"}, {"type": "null"}]},
            "where": {"$ref": "#/$defs/place"},
            "tags": {"type": "array", "items": {"enum": ["a", "b"]}, "x-note": "ours"},
        },
        "$defs": {"place": {"type": "object", "additionalProperties": False}},
        "required": ["when"],
    }
    plan = function("plan", rich, description="Long: " + "d" * 9000)
    house.ask(user("hi"), tools=[plan, WEATHER])
    offered = {each["name"]: each for each in house.last.body["tools"]}
    assert set(offered) == {"plan", "get_weather"}
    assert offered["plan"]["input_schema"] == rich
    assert offered["plan"]["description"] == plan["function"]["description"]
    assert offered["get_weather"]["input_schema"] == CITY
    assert "tool_choice" not in house.last.body


def test_a_tool_without_parameters_takes_none(house: Served) -> None:
    bare = {"type": "function", "function": {"name": "ping"}}
    house.answers(call(ToolUse("ping", {}, "toolu_ping")))
    answer = house.ask(user("ping"), tools=[bare])
    (made,) = answer.calls
    assert made["function"] == {"name": "ping", "arguments": "{}"}
    assert house.last.body["tools"][0]["input_schema"]["type"] == "object"


@pytest.fixture(scope="module")
def conversation(shared: Served) -> str:
    shared.begin()
    return shared.ask(user("Hello"), tools=TOOLS).conversation_id


NAMED = {"type": "function", "function": {"name": "get_weather"}}


@pytest.mark.parametrize(
    ("fields", "choice"),
    [
        ({"tool_choice": "auto"}, None),
        ({"tool_choice": "none"}, {"type": "none"}),
        ({"tool_choice": "required"}, {"type": "any"}),
        ({"tool_choice": NAMED}, {"type": "tool", "name": "get_weather"}),
        ({"parallel_tool_calls": True}, None),
        ({"parallel_tool_calls": False}, {"type": "auto", "disable_parallel_tool_use": True}),
        (
            {"tool_choice": "required", "parallel_tool_calls": False},
            {"type": "any", "disable_parallel_tool_use": True},
        ),
    ],
)
def test_how_tools_are_chosen(
    house: Served, conversation: str, fields: JSON, choice: JSON | None
) -> None:
    answer = house.ask(user("hi"), conversation_id=conversation, tools=TOOLS, **fields)
    assert answer.status == 200
    body = house.last.body
    assert body.get("tool_choice") == choice
    assert set(house.last.tools) == {"get_weather", "get_time"}
    if choice and choice["type"] in ("any", "tool"):
        # The Messages API takes no thinking beside a forced call.
        assert body["thinking"] == {"type": "disabled"}


def test_a_choice_is_for_one_turn(house: Served) -> None:
    answer = suspend(house, PARIS, tool_choice="required")
    assert house.last.body["tool_choice"] == {"type": "any"}
    answer = go_on(house, answer, tool("toolu_paris", "sunny"))
    assert answer.finish_reason == "stop"
    assert "tool_choice" not in house.last.body, "else the model could never answer"
    assert same_child(house, answer)


def test_tools_may_change_between_turns(house: Served) -> None:
    answer = house.ask(user("one"), tools=[WEATHER])
    answer = go_on(house, answer, user("two"), tools=[CLOCK])
    assert house.last.tools == ["get_time"]
    answer = go_on(house, answer, user("three"), tools=[])
    assert house.last.tools == []
    answer = go_on(house, answer, user("four"), tools=TOOLS)
    assert set(house.last.tools) == {"get_weather", "get_time"}
    assert same_child(house, answer)
    assert [texts for _, texts in spoken(house.last)][::2] == [
        ["one"],
        ["two"],
        ["three"],
        ["four"],
    ]
    assert len(house.requests) == 4


ODD_NAMES = (
    *("files.read", "two words", "наи́ме", "StructuredOutput", "ToolSearch", "a" * 150),
    *("Bash", "mcp__client__x", "-dash", "__proto__"),
)


def test_odd_names_come_back_as_they_are(house: Served) -> None:
    names = {function(name)["function"]["description"]: name for name in ODD_NAMES}

    def call_all(request: Request) -> Reply:
        tools = request.body["tools"]
        assert all(re.fullmatch(r"[A-Za-z0-9_-]{1,64}", each["name"]) for each in tools)
        return call(
            *(
                ToolUse(each["name"], {"n": 1}, f"toolu_{number}")
                for number, each in enumerate(tools)
            )
        )

    house.stub.answer = call_all
    answer = house.stream(user("all"), tools=[function(name) for name in ODD_NAMES])
    assert answer.finish_reasons == ["tool_calls"]
    offered = [names[each["description"]] for each in house.last.body["tools"]]
    assert set(offered) == set(ODD_NAMES)
    assert [each["function"]["name"] for each in answer.calls] == offered
    house.answers(say("done"))
    results = [tool(each["id"], f"of {each['function']['name']}") for each in answer.calls]
    assert house.ask(*results, conversation_id=answer.conversation_id).text == "done"
    _, told = spoken(house.last)[-1]
    assert [texts for _, texts, _ in told] == [
        [each["content"]] for each in sorted(results, key=lambda each: str(each["tool_call_id"]))
    ]


# -- called ----------------------------------------------------------------------------------------


def test_a_call_is_streamed_in_fragments(house: Served) -> None:
    house.answers(call(PARIS, ROME, text="Let me see."))
    answer = house.stream(user("Weather?"), tools=TOOLS)
    assert answer.text == "Let me see."
    assert answer.finish_reasons == ["tool_calls"]
    assert answer.calls == [
        called("toolu_paris", "get_weather", '{"city":"Paris"}'),
        called("toolu_rome", "get_weather", '{"city":"Rome"}'),
    ]
    fragments = [delta["tool_calls"] for delta in answer.deltas if "tool_calls" in delta]
    assert len(fragments) >= 6, "two beginnings, and the arguments in pieces"
    assert answer.chunks


def test_a_whole_answer_has_its_calls(house: Served) -> None:
    answer = suspend(house, PARIS)
    assert answer.message["content"] is None
    assert answer.completion.choices[0].message.tool_calls
    assert answer.calls == [called("toolu_paris", "get_weather", '{"city":"Paris"}')]


def test_the_arguments_are_the_models_own_text(house: Served) -> None:
    given = {"big": 9007199254740993, "float": 1.0, "text": "é\u2028"}
    answer = suspend(house, ToolUse("get_time", given, "toolu_t"))
    assert json.loads(answer.calls[0]["function"]["arguments"]) == given
    assert '"big":9007199254740993,"float":1.0' in answer.calls[0]["function"]["arguments"]


def test_a_tool_that_was_never_offered_is_not_passed_on(house: Served) -> None:
    house.answers(call(ToolUse("ghost", {"a": 1}, "toolu_g")), say("I was mistaken."))
    answer = house.stream(user("hi"), tools=TOOLS)
    assert (answer.text, answer.calls) == ("I was mistaken.", [])
    assert answer.finish_reasons == ["stop"]
    _, told = spoken(house.last)[-1]
    assert told[0][0] == "toolu_g"
    assert told[0][2], "the model hears that there is no such tool"


def test_a_ghost_beside_a_real_tool(house: Served) -> None:
    house.answers(call(ToolUse("ghost", {}, "toolu_g"), PARIS))
    answer = house.ask(user("hi"), tools=TOOLS)
    assert [each["id"] for each in answer.calls] == ["toolu_paris"]
    house.answers(say("sun"))
    answer = go_on(house, answer, tool("toolu_paris", "sunny"))
    assert answer.text == "sun"


@pytest.mark.parametrize("stream", [False, True])
def test_a_strict_tool_is_only_called_rightly(house: Served, stream: bool) -> None:
    wrong = ToolUse("get_weather", {"town": "Paris"}, "toolu_wrong")
    house.answers(call(wrong, text="Hm. "), call(PARIS))
    strict = function("get_weather", CITY, strict=True)
    ask = house.stream if stream else house.ask
    answer = ask(user("Weather?"), tools=[strict])
    assert answer.calls == [called("toolu_paris", "get_weather", '{"city":"Paris"}')]
    (_, _, (_, told)) = spoken(house.last)
    assert told[0][0] == "toolu_wrong"
    assert told[0][2]
    assert "city" in told[0][1][0]
    house.answers(say("Sunny."))
    answer = house.ask(tool("toolu_paris", "sun"), conversation_id=answer.conversation_id)
    assert answer.text == "Sunny."


# -- answered --------------------------------------------------------------------------------------


def test_the_suspended_turn_goes_on_in_the_same_child(house: Served) -> None:
    answer = suspend(house, PARIS, text="Let me see.")
    before = len(house.requests)
    house.answers(say("It is sunny.", chunks=3))
    answer = go_on(house, answer, tool("toolu_paris", "sunny"))
    assert answer.text == "It is sunny."
    assert len(house.requests) == before + 1
    assert same_child(house, answer)
    assert spoken(house.last) == [
        ("user", ["Weather?"]),
        ("assistant", ["Let me see.", ("toolu_paris", "get_weather", {"city": "Paris"})]),
        ("user", [("toolu_paris", ["sunny"], False)]),
    ]
    go_on(house, answer, user("Thanks."))
    assert spoken(house.last)[3:] == [("assistant", ["It is sunny."]), ("user", ["Thanks."])]
    assert same_child(house, answer)


def test_one_call_after_another_in_the_same_child(house: Served) -> None:
    answer = suspend(house, PARIS)
    for city in ("a", "b", "c"):
        house.answers(call(ToolUse("get_weather", {"city": city}, f"toolu_{city}")))
        answer = go_on(house, answer, tool(answer.calls[0]["id"], f"before {city}"))
        assert [each["id"] for each in answer.calls] == [f"toolu_{city}"]
    house.answers(say("done"))
    assert go_on(house, answer, tool("toolu_c", "last")).text == "done"
    assert same_child(house, answer)
    assert len(house.requests) == 5
    assert [len(blocks) for _, blocks in spoken(house.last)] == [1] * 9


def test_by_lineage_in_the_same_child(house: Served) -> None:
    answer = suspend(house, PARIS, ROME)
    history = [user("Weather?"), assistant(None, *answer.calls)]
    house.answers(say("Both."))
    results = (tool("toolu_rome", "rain"), tool("toolu_paris", [part("sun"), part("/shine")]))
    answer = house.ask(*history, *results, tools=TOOLS)
    assert answer.headers["x-ccapi-lineage"] == "hit"
    assert same_child(house, answer)
    assert spoken(house.last)[-1] == (
        "user",
        [("toolu_paris", ["sun", "/shine"], False), ("toolu_rome", ["rain"], False)],
    )


def test_partial_results_name_what_is_missing(house: Served) -> None:
    answer = suspend(house, PARIS, ROME)
    before = len(house.requests)
    refused = go_on(house, answer, tool("toolu_rome", "rain"))
    assert refused.status == 400
    assert refused.error["code"] == "missing_tool_results"
    assert "toolu_paris" in refused.error["message"]
    assert "toolu_rome" not in refused.error["message"]
    history = [user("Weather?"), assistant(None, *answer.calls)]
    refused = house.ask(*history, tool("toolu_paris", "sun"), tools=TOOLS)
    assert refused.status == 400
    assert "toolu_rome" in refused.error["message"]
    refused = go_on(house, answer, user("never mind"))
    assert refused.status == 400
    assert len(house.requests) == before, "nothing was spent"
    house.answers(say("Both."))
    answer = go_on(house, answer, tool("toolu_rome", "rain"), tool("toolu_paris", "sun"))
    assert answer.text == "Both."
    assert same_child(house, answer)


def test_results_for_unknown_calls_are_refused(house: Served) -> None:
    answer = suspend(house, PARIS)
    before = len(house.requests)
    refused = go_on(house, answer, tool("toolu_paris", "sun"), tool("toolu_nobody", "x"))
    assert refused.status == 400
    assert refused.error["code"] == "unknown_tool_call_id"
    assert "toolu_nobody" in refused.error["message"]
    refused = house.ask(user("hi"), tool("toolu_nobody", "x"), tools=TOOLS)
    assert refused.status == 400
    assert len(house.requests) == before
    assert go_on(house, answer, tool("toolu_paris", "sun")).finish_reason == "stop"


@pytest.mark.parametrize("size", [300_000, 600_000])
def test_a_long_result_arrives_whole(house: Served, size: int) -> None:
    answer = suspend(house, PARIS)
    result = "".join(f"{number:09d}\n" for number in range(size // 10))
    answer = go_on(house, answer, tool("toolu_paris", result))
    assert answer.finish_reason == "stop"
    assert spoken(house.last)[-1] == ("user", [("toolu_paris", [result], False)])
    assert len(house.requests) == 2


@pytest.mark.parametrize("content", ["", " ", [part("")]])
def test_a_result_may_be_empty(house: Served, content: str | list[JSON]) -> None:
    answer = suspend(house, PARIS)
    answer = go_on(house, answer, tool("toolu_paris", content))
    assert answer.finish_reason == "stop"
    ((call_id, texts, failed),) = spoken(house.last)[-1][1]
    assert (call_id, failed) == ("toolu_paris", False)
    assert not any(text.strip() for text in texts)


def test_a_failed_tool_says_so(house: Served) -> None:
    answer = suspend(house, PARIS)
    answer = go_on(house, answer, tool("toolu_paris", [part("no"), part("way")], is_error=True))
    assert answer.finish_reason == "stop"
    assert spoken(house.last)[-1] == ("user", [("toolu_paris", ["no", "way"], True)])
    assert len(house.requests) == 2


def test_the_model_may_have_nothing_to_say_to_a_result(house: Served) -> None:
    answer = suspend(house, PARIS)
    house.answers(Reply((), stop_reason="end_turn"))
    answer = go_on(house, answer, tool("toolu_paris", "sun"))
    assert (answer.text, answer.finish_reason) == ("", "stop")
    go_on(house, answer, user("Well?"))
    assert spoken(house.last)[-1] == ("user", [("toolu_paris", ["sun"], False), "Well?"])


def test_results_and_a_question(house: Served) -> None:
    answer = suspend(house, PARIS)
    answer = go_on(house, answer, tool("toolu_paris", "sun"), user("/and Rome?"))
    assert answer.finish_reason == "stop"
    assert spoken(house.last) == [
        ("user", ["Weather?"]),
        ("assistant", [("toolu_paris", "get_weather", {"city": "Paris"})]),
        ("user", [("toolu_paris", ["sun"], False), "/and Rome?"]),
    ]
    assert len(house.requests) == 2


def test_after_the_child_was_killed(house: Served) -> None:
    answer = suspend(house, PARIS, ROME, text="Let me see.")
    house.kill_child(answer.conversation_id)
    answer = go_on(house, answer, tool("toolu_rome", "rain"), tool("toolu_paris", "sun"))
    assert answer.finish_reason == "stop"
    assert spoken(house.last) == [
        ("user", ["Weather?"]),
        (
            "assistant",
            [
                "Let me see.",
                ("toolu_paris", "get_weather", {"city": "Paris"}),
                ("toolu_rome", "get_weather", {"city": "Rome"}),
            ],
        ),
        ("user", [("toolu_paris", ["sun"], False), ("toolu_rome", ["rain"], False)]),
    ]
    assert len(house.requests) == 2
    go_on(house, answer, user("Thanks."))
    assert spoken(house.last)[-1] == ("user", ["Thanks."])


# -- clients that go -------------------------------------------------------------------------------


def leave(house: Served, at: str, *messages: JSON, **fields: Any) -> str:
    """A client that goes away when it has read `at`; answers with the conversation."""
    with house.streaming(*messages, **fields) as response:
        assert response.status_code == 200
        for line in response.iter_lines():
            if at in line:
                break
    return str(response.headers["x-conversation-id"])


def test_a_client_that_leaves_in_the_middle_of_a_call(house: Served) -> None:
    first = house.ask(user("Hello"), tools=TOOLS)
    house.answers(Reply((Text("Let me see."), PARIS), holds={2: trio.Event()}))
    request = len(house.requests)
    leave(
        house, "toolu_paris", user("Weather?"), tools=TOOLS, conversation_id=first.conversation_id
    )
    house.wait(lambda: house.requests[request].left.is_set())
    answer = go_on(house, first, user("Still there?"))
    assert answer.finish_reason == "stop"
    assert spoken(house.last) == [
        ("user", ["Hello"]),
        ("assistant", ["turn 1: Hello"]),
        ("user", ["Still there?"]),
    ]


def test_a_client_that_leaves_after_the_results_may_bring_them_again(house: Served) -> None:
    answer = suspend(house, PARIS, ROME)
    results = (tool("toolu_paris", "sun"), tool("toolu_rome", "rain"))
    house.answers(say("It is sunny.", chunks=4, holds={2: trio.Event()}))
    leave(house, "It", *results, conversation_id=answer.conversation_id)
    house.wait(lambda: house.requests[1].left.is_set())
    house.answers(say("Sunny."))
    again = go_on(house, answer, *results)
    assert again.text == "Sunny."
    assert spoken(house.last) == [
        ("user", ["Weather?"]),
        (
            "assistant",
            [
                ("toolu_paris", "get_weather", {"city": "Paris"}),
                ("toolu_rome", "get_weather", {"city": "Rome"}),
            ],
        ),
        ("user", [("toolu_paris", ["sun"], False), ("toolu_rome", ["rain"], False)]),
    ]


# -- clients that are late -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def impatient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    claude = {"tool_wait_seconds": 0.3, "prewarm": 1}
    with open_served(tmp_path_factory.mktemp("impatient"), claude=claude) as house:
        yield house


@pytest.mark.parametrize("turns_before", [0, 1])
def test_results_that_come_too_late_are_sent_all_the_same(
    impatient: Served, turns_before: int
) -> None:
    house = impatient
    house.begin()
    house.answers(*(say("Hello.") for _ in range(turns_before)), call(PARIS, ROME))
    fields: JSON = {"tools": TOOLS}
    if turns_before:
        first = house.ask(user("Hi"), **fields)
        fields["conversation_id"] = first.conversation_id
    answer = house.ask(user("Weather?"), **fields)
    house.wait(lambda: house.phase(answer.conversation_id) not in ("busy", "awaiting_tools"))
    house.answers(say("Sunny."))
    late = go_on(house, answer, tool("toolu_rome", "rain"), tool("toolu_paris", "sun"))
    assert late.text == "Sunny."
    assert len(house.requests) == turns_before + 2
    assert spoken(house.last)[-3:] == [
        ("user", ["Weather?"]),
        (
            "assistant",
            [
                ("toolu_paris", "get_weather", {"city": "Paris"}),
                ("toolu_rome", "get_weather", {"city": "Rome"}),
            ],
        ),
        ("user", [("toolu_paris", ["sun"], False), ("toolu_rome", ["rain"], False)]),
    ]
