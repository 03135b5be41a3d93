"""Tools: what the model is offered, what it calls, and what results it receives."""

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


def suspend(served: Served, *uses: ToolUse, text: str = "", **fields: Any) -> Whole:
    """A conversation whose model waits for what came of these calls."""
    served.answers(call(*uses, text=text))
    answer = served.ask(user("Weather?"), **{"tools": TOOLS, **fields})
    assert answer.finish_reason == "tool_calls"
    served.wait_phase(answer.conversation_id, "awaiting_tools")
    return answer


def go_on(served: Served, answer: Whole, *messages: JSON, **fields: Any) -> Whole:
    return served.ask(*messages, conversation_id=answer.conversation_id, **fields)


def same_child(served: Served, answer: Whole) -> bool:
    return len(served.adopted(answer.conversation_id)) == 1


# -- offered ---------------------------------------------------------------------------------------


def test_tools_reach_the_model_as_they_are(served: Served) -> None:
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
    served.ask(user("hi"), tools=[plan, WEATHER])
    offered = {each["name"]: each for each in served.last.body["tools"]}
    assert set(offered) == {"plan", "get_weather"}
    assert offered["plan"]["input_schema"] == rich
    assert offered["plan"]["description"] == plan["function"]["description"]
    assert offered["get_weather"]["input_schema"] == CITY
    assert "tool_choice" not in served.last.body


def test_a_tool_without_parameters_takes_none(served: Served) -> None:
    bare = {"type": "function", "function": {"name": "ping"}}
    served.answers(call(ToolUse("ping", {}, "toolu_ping")))
    answer = served.ask(user("ping"), tools=[bare])
    (made,) = answer.calls
    assert made["function"] == {"name": "ping", "arguments": "{}"}
    assert served.last.body["tools"][0]["input_schema"]["type"] == "object"


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
    served: Served, conversation: str, fields: JSON, choice: JSON | None
) -> None:
    answer = served.ask(user("hi"), conversation_id=conversation, tools=TOOLS, **fields)
    assert answer.status == 200
    body = served.last.body
    assert body.get("tool_choice") == choice
    assert set(served.last.tools) == {"get_weather", "get_time"}
    if choice and choice["type"] in ("any", "tool"):
        # The Messages API takes no thinking beside a forced call.
        assert body["thinking"] == {"type": "disabled"}


def test_a_choice_is_for_one_turn(served: Served) -> None:
    answer = suspend(served, PARIS, tool_choice="required")
    assert served.last.body["tool_choice"] == {"type": "any"}
    answer = go_on(served, answer, tool("toolu_paris", "sunny"))
    assert answer.finish_reason == "stop"
    assert "tool_choice" not in served.last.body, "else the model could never answer"
    assert same_child(served, answer)


def test_tools_may_change_between_turns(served: Served) -> None:
    answer = served.ask(user("one"), tools=[WEATHER])
    answer = go_on(served, answer, user("two"), tools=[CLOCK])
    assert served.last.tools == ["get_time"]
    answer = go_on(served, answer, user("three"), tools=[])
    assert served.last.tools == []
    answer = go_on(served, answer, user("four"), tools=TOOLS)
    assert set(served.last.tools) == {"get_weather", "get_time"}
    assert same_child(served, answer)
    assert [texts for _, texts in spoken(served.last)][::2] == [
        ["one"],
        ["two"],
        ["three"],
        ["four"],
    ]
    assert len(served.requests) == 4


ODD_NAMES = (
    *("files.read", "two words", "наи́ме", "StructuredOutput", "ToolSearch", "a" * 150),
    *("Bash", "mcp__client__x", "-dash", "__proto__"),
)


def test_odd_names_come_back_as_they_are(served: Served) -> None:
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

    served.stub.answer = call_all
    answer = served.stream(user("all"), tools=[function(name) for name in ODD_NAMES])
    assert answer.finish_reasons == ["tool_calls"]
    offered = [names[each["description"]] for each in served.last.body["tools"]]
    assert set(offered) == set(ODD_NAMES)
    assert [each["function"]["name"] for each in answer.calls] == offered
    served.answers(say("done"))
    results = [tool(each["id"], f"of {each['function']['name']}") for each in answer.calls]
    assert served.ask(*results, conversation_id=answer.conversation_id).text == "done"
    _, told = spoken(served.last)[-1]
    assert [texts for _, texts, _ in told] == [
        [each["content"]] for each in sorted(results, key=lambda each: str(each["tool_call_id"]))
    ]


# -- called ----------------------------------------------------------------------------------------


def test_a_call_is_streamed_in_fragments(served: Served) -> None:
    served.answers(call(PARIS, ROME, text="Let me see."))
    answer = served.stream(user("Weather?"), tools=TOOLS)
    assert answer.text == "Let me see."
    assert answer.finish_reasons == ["tool_calls"]
    assert answer.calls == [
        called("toolu_paris", "get_weather", '{"city":"Paris"}'),
        called("toolu_rome", "get_weather", '{"city":"Rome"}'),
    ]
    fragments = [delta["tool_calls"] for delta in answer.deltas if "tool_calls" in delta]
    assert len(fragments) >= 6, "two beginnings, and the arguments in pieces"
    assert answer.chunks


def test_a_whole_answer_has_its_calls(served: Served) -> None:
    answer = suspend(served, PARIS)
    assert answer.message["content"] is None
    assert answer.completion.choices[0].message.tool_calls
    assert answer.calls == [called("toolu_paris", "get_weather", '{"city":"Paris"}')]


def test_the_arguments_are_the_models_own_text(served: Served) -> None:
    given = {"big": 9007199254740993, "float": 1.0, "text": "é\u2028"}
    answer = suspend(served, ToolUse("get_time", given, "toolu_t"))
    assert json.loads(answer.calls[0]["function"]["arguments"]) == given
    assert '"big":9007199254740993,"float":1.0' in answer.calls[0]["function"]["arguments"]


def test_a_tool_that_was_never_offered_is_not_passed_on(served: Served) -> None:
    served.answers(call(ToolUse("ghost", {"a": 1}, "toolu_g")), say("I was mistaken."))
    answer = served.stream(user("hi"), tools=TOOLS)
    assert (answer.text, answer.calls) == ("I was mistaken.", [])
    assert answer.finish_reasons == ["stop"]
    _, told = spoken(served.last)[-1]
    assert told[0][0] == "toolu_g"
    assert told[0][2], "the model hears that there is no such tool"


def test_a_ghost_beside_a_real_tool(served: Served) -> None:
    served.answers(call(ToolUse("ghost", {}, "toolu_g"), PARIS))
    answer = served.ask(user("hi"), tools=TOOLS)
    assert [each["id"] for each in answer.calls] == ["toolu_paris"]
    served.answers(say("sun"))
    answer = go_on(served, answer, tool("toolu_paris", "sunny"))
    assert answer.text == "sun"


@pytest.mark.parametrize("stream", [False, True])
def test_a_strict_tool_is_only_called_rightly(served: Served, stream: bool) -> None:
    wrong = ToolUse("get_weather", {"town": "Paris"}, "toolu_wrong")
    served.answers(call(wrong, text="Hm. "), call(PARIS))
    strict = function("get_weather", CITY, strict=True)
    ask = served.stream if stream else served.ask
    answer = ask(user("Weather?"), tools=[strict])
    assert answer.calls == [called("toolu_paris", "get_weather", '{"city":"Paris"}')]
    (_, _, (_, told)) = spoken(served.last)
    assert told[0][0] == "toolu_wrong"
    assert told[0][2]
    assert "city" in told[0][1][0]
    served.answers(say("Sunny."))
    answer = served.ask(tool("toolu_paris", "sun"), conversation_id=answer.conversation_id)
    assert answer.text == "Sunny."


# -- answered --------------------------------------------------------------------------------------


def test_the_suspended_turn_goes_on_in_the_same_child(served: Served) -> None:
    answer = suspend(served, PARIS, text="Let me see.")
    before = len(served.requests)
    served.answers(say("It is sunny.", chunks=3))
    answer = go_on(served, answer, tool("toolu_paris", "sunny"))
    assert answer.text == "It is sunny."
    assert len(served.requests) == before + 1
    assert same_child(served, answer)
    assert spoken(served.last) == [
        ("user", ["Weather?"]),
        ("assistant", ["Let me see.", ("toolu_paris", "get_weather", {"city": "Paris"})]),
        ("user", [("toolu_paris", ["sunny"], False)]),
    ]
    go_on(served, answer, user("Thanks."))
    assert spoken(served.last)[3:] == [("assistant", ["It is sunny."]), ("user", ["Thanks."])]
    assert same_child(served, answer)


def test_one_call_after_another_in_the_same_child(served: Served) -> None:
    answer = suspend(served, PARIS)
    for city in ("a", "b", "c"):
        served.answers(call(ToolUse("get_weather", {"city": city}, f"toolu_{city}")))
        answer = go_on(served, answer, tool(answer.calls[0]["id"], f"before {city}"))
        assert [each["id"] for each in answer.calls] == [f"toolu_{city}"]
    served.answers(say("done"))
    assert go_on(served, answer, tool("toolu_c", "last")).text == "done"
    assert same_child(served, answer)
    assert len(served.requests) == 5
    assert [len(blocks) for _, blocks in spoken(served.last)] == [1] * 9


def test_by_lineage_in_the_same_child(served: Served) -> None:
    answer = suspend(served, PARIS, ROME)
    history = [user("Weather?"), assistant(None, *answer.calls)]
    served.answers(say("Both."))
    results = (tool("toolu_rome", "rain"), tool("toolu_paris", [part("sun"), part("/shine")]))
    answer = served.ask(*history, *results, tools=TOOLS)
    assert answer.headers["x-ccapi-lineage"] == "hit"
    assert same_child(served, answer)
    assert spoken(served.last)[-1] == (
        "user",
        [("toolu_paris", ["sun", "/shine"], False), ("toolu_rome", ["rain"], False)],
    )


def test_partial_results_name_what_is_missing(served: Served) -> None:
    answer = suspend(served, PARIS, ROME)
    before = len(served.requests)
    refused = go_on(served, answer, tool("toolu_rome", "rain"))
    assert refused.status == 400
    assert refused.error["code"] == "missing_tool_results"
    assert "toolu_paris" in refused.error["message"]
    assert "toolu_rome" not in refused.error["message"]
    history = [user("Weather?"), assistant(None, *answer.calls)]
    refused = served.ask(*history, tool("toolu_paris", "sun"), tools=TOOLS)
    assert refused.status == 400
    assert "toolu_rome" in refused.error["message"]
    refused = go_on(served, answer, user("never mind"))
    assert refused.status == 400
    assert len(served.requests) == before, "nothing was spent"
    served.answers(say("Both."))
    answer = go_on(served, answer, tool("toolu_rome", "rain"), tool("toolu_paris", "sun"))
    assert answer.text == "Both."
    assert same_child(served, answer)


def test_results_for_unknown_calls_are_refused(served: Served) -> None:
    answer = suspend(served, PARIS)
    before = len(served.requests)
    refused = go_on(served, answer, tool("toolu_paris", "sun"), tool("toolu_unknown", "x"))
    assert refused.status == 400
    assert refused.error["code"] == "unknown_tool_call_id"
    assert "toolu_unknown" in refused.error["message"]
    refused = served.ask(user("hi"), tool("toolu_unknown", "x"), tools=TOOLS)
    assert refused.status == 400
    assert len(served.requests) == before
    assert go_on(served, answer, tool("toolu_paris", "sun")).finish_reason == "stop"


@pytest.mark.parametrize("size", [300_000, 600_000])
def test_a_long_result_arrives_whole(served: Served, size: int) -> None:
    answer = suspend(served, PARIS)
    result = "".join(f"{number:09d}\n" for number in range(size // 10))
    answer = go_on(served, answer, tool("toolu_paris", result))
    assert answer.finish_reason == "stop"
    assert spoken(served.last)[-1] == ("user", [("toolu_paris", [result], False)])
    assert len(served.requests) == 2


@pytest.mark.parametrize("content", ["", " ", [part("")]])
def test_a_result_may_be_empty(served: Served, content: str | list[JSON]) -> None:
    answer = suspend(served, PARIS)
    answer = go_on(served, answer, tool("toolu_paris", content))
    assert answer.finish_reason == "stop"
    ((call_id, texts, failed),) = spoken(served.last)[-1][1]
    assert (call_id, failed) == ("toolu_paris", False)
    assert not any(text.strip() for text in texts)


def test_a_failed_tool_says_so(served: Served) -> None:
    answer = suspend(served, PARIS)
    answer = go_on(served, answer, tool("toolu_paris", [part("no"), part("way")], is_error=True))
    assert answer.finish_reason == "stop"
    assert spoken(served.last)[-1] == ("user", [("toolu_paris", ["no", "way"], True)])
    assert len(served.requests) == 2


def test_the_model_may_have_nothing_to_say_to_a_result(served: Served) -> None:
    answer = suspend(served, PARIS)
    served.answers(Reply((), stop_reason="end_turn"))
    answer = go_on(served, answer, tool("toolu_paris", "sun"))
    assert (answer.text, answer.finish_reason) == ("", "stop")
    go_on(served, answer, user("Well?"))
    assert spoken(served.last)[-1] == ("user", [("toolu_paris", ["sun"], False), "Well?"])


def test_results_and_a_question(served: Served) -> None:
    answer = suspend(served, PARIS)
    answer = go_on(served, answer, tool("toolu_paris", "sun"), user("/and Rome?"))
    assert answer.finish_reason == "stop"
    assert spoken(served.last) == [
        ("user", ["Weather?"]),
        ("assistant", [("toolu_paris", "get_weather", {"city": "Paris"})]),
        ("user", [("toolu_paris", ["sun"], False), "/and Rome?"]),
    ]
    assert len(served.requests) == 2


def test_after_the_child_was_killed(served: Served) -> None:
    answer = suspend(served, PARIS, ROME, text="Let me see.")
    served.kill_child(answer.conversation_id)
    answer = go_on(served, answer, tool("toolu_rome", "rain"), tool("toolu_paris", "sun"))
    assert answer.finish_reason == "stop"
    assert spoken(served.last) == [
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
    assert len(served.requests) == 2
    go_on(served, answer, user("Thanks."))
    assert spoken(served.last)[-1] == ("user", ["Thanks."])


# -- clients that go -------------------------------------------------------------------------------


def leave(served: Served, at: str, *messages: JSON, **fields: Any) -> str:
    """A client that goes away when it has read `at`; answers with the conversation."""
    with served.streaming(*messages, **fields) as response:
        assert response.status_code == 200
        for line in response.iter_lines():
            if at in line:
                break
    return str(response.headers["x-conversation-id"])


def test_a_client_that_leaves_in_the_middle_of_a_call(served: Served) -> None:
    first = served.ask(user("Hello"), tools=TOOLS)
    served.answers(Reply((Text("Let me see."), PARIS), holds={2: trio.Event()}))
    request = len(served.requests)
    leave(
        served, "toolu_paris", user("Weather?"), tools=TOOLS, conversation_id=first.conversation_id
    )
    served.wait(lambda: served.requests[request].left.is_set())
    answer = go_on(served, first, user("Still there?"))
    assert answer.finish_reason == "stop"
    assert spoken(served.last) == [
        ("user", ["Hello"]),
        ("assistant", ["turn 1: Hello"]),
        ("user", ["Still there?"]),
    ]


def test_a_client_that_leaves_after_the_results_may_bring_them_again(served: Served) -> None:
    answer = suspend(served, PARIS, ROME)
    results = (tool("toolu_paris", "sun"), tool("toolu_rome", "rain"))
    served.answers(say("It is sunny.", chunks=4, holds={2: trio.Event()}))
    leave(served, "It", *results, conversation_id=answer.conversation_id)
    served.wait(lambda: served.requests[1].left.is_set())
    served.answers(say("Sunny."))
    again = go_on(served, answer, *results)
    assert again.text == "Sunny."
    assert spoken(served.last) == [
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
    with open_served(tmp_path_factory.mktemp("impatient"), claude=claude) as served:
        yield served


@pytest.mark.parametrize("turns_before", [0, 1])
def test_results_that_come_too_late_are_sent_all_the_same(
    impatient: Served, turns_before: int
) -> None:
    served = impatient
    served.begin()
    served.answers(*(say("Hello.") for _ in range(turns_before)), call(PARIS, ROME))
    fields: JSON = {"tools": TOOLS}
    if turns_before:
        first = served.ask(user("Hi"), **fields)
        fields["conversation_id"] = first.conversation_id
    answer = served.ask(user("Weather?"), **fields)
    served.wait(lambda: served.phase(answer.conversation_id) not in ("busy", "awaiting_tools"))
    served.answers(say("Sunny."))
    late = go_on(served, answer, tool("toolu_rome", "rain"), tool("toolu_paris", "sun"))
    assert late.text == "Sunny."
    assert len(served.requests) == turns_before + 2
    assert spoken(served.last)[-3:] == [
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
