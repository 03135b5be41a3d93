"""Custom tools and namespaces: what the model receives of them, and how calls come back."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ccapi.schemas.errors import InvalidRequest
from ccapi.schemas.message import ToolCall, ToolForm
from ccapi.schemas.openai.chat_tools import MAX_TOOLS
from ccapi.schemas.openai.output_items import Output, encode_call
from ccapi.schemas.openai.response_tools import InputText, without_search
from ccapi.schemas.openai.responses import ResponseTurn, parse_response
from ccapi.schemas.turn import SearchWish, ToolChoice
from ccapi.schemas.turn_items import ToolCallDelta, ToolCallStarted

from ...support.responses import tool

TURN = "0e8dbd39-f99c-49ed-af4a-a6b7d1a73ad6"
LARK = {"type": "grammar", "syntax": "lark", "definition": "start: /.+/"}
PATCH = {"type": "custom", "name": "apply_patch", "description": "Edit files.", "format": LARK}
AGENTS = {
    "type": "namespace",
    "name": "agents",
    "description": "Sub-agents.",
    "tools": [tool("spawn"), {"type": "custom", "name": "tell"}],
}
ALL = [tool("f"), PATCH, AGENTS, {"type": "web_search", "external_web_access": False}]


def parse(**fields: Any) -> ResponseTurn:
    return parse_response({"input": "Hi", **fields})


def error_of(**fields: Any) -> tuple[str, str | None]:
    with pytest.raises(InvalidRequest) as caught:
        parse(**fields)
    return caught.value.code, caught.value.param


def test_the_model_learns_of_every_tool_that_the_client_runs() -> None:
    turn = parse(tools=ALL)
    assert turn.tools is not None
    forms = {each.name: each.form for each in turn.tools}
    assert forms == {
        "f": None,
        "apply_patch": ToolForm("apply_patch", None, True),
        "agents__spawn": ToolForm("spawn", "agents"),
        "agents__tell": ToolForm("tell", "agents", True),
    }
    patch, spawn, tell = turn.tools[1:]
    assert patch.description == "Edit files.\n\nThe text must suit this Lark grammar:\nstart: /.+/"
    assert json.loads(patch.parameters)["required"] == ["input"]
    assert spawn.description == "About all tools of agents: Sub-agents."  # said once
    assert tell.description == ""


def test_built_in_tools_are_left_out_and_named() -> None:
    turn = parse(tools=[*ALL, {"type": "local_shell"}, {"type": "file_search"}])
    assert turn.ignored == ("tools.web_search", "tools.local_shell", "tools.file_search")
    assert [each["type"] for each in turn.echo["tools"]] == ["function", "custom", "namespace"]
    assert turn.options.search is None, "what was seen before is not searched"
    alone = parse(tools=[{"type": "code_interpreter"}])
    assert alone.tools == ()
    assert alone.ignored == ("tools.code_interpreter",)


def test_a_search_of_the_web_is_a_wish() -> None:
    near = {"type": "approximate", "city": "Rome", "country": None, "timezone": "Europe/Rome"}
    asked = {
        "type": "web_search_preview_2025_03_11",
        "filters": {"allowed_domains": ["a.example", "b.example"]},
        "user_location": near,
        "search_context_size": "high",
    }
    turn = parse(tools=[tool("f"), asked], tool_choice={"type": "web_search"})
    kind = "tools.web_search_preview_2025_03_11"
    wish = SearchWish(
        allowed=("a.example", "b.example"),
        location=(("city", "Rome"), ("timezone", "Europe/Rome")),
        names=(kind,),
    )
    assert turn.options.search == wish
    assert turn.options.search.names == (kind,)
    assert turn.ignored == (f"{kind}.search_context_size",)
    assert turn.options.tool_choice == ToolChoice("named", "web_search")
    assert turn.echo["tool_choice"] == {"type": "web_search_preview"}
    assert [each["type"] for each in turn.echo["tools"]] == ["function", asked["type"]]
    assert [each["type"] for each in without_search(turn.echo["tools"])] == ["function"]


def test_sources_are_included_where_there_is_a_search() -> None:
    include = ["web_search_call.action.sources"]
    assert parse(tools=[{"type": "web_search"}], include=include).ignored == ()
    assert parse(include=include).ignored == ("include",)
    other = [*include, "file_search_call.results"]
    assert parse(tools=[{"type": "web_search"}], include=other).ignored == ("include",)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"search_context_size": "vast"}, "search_context_size"),
        ({"filters": {"allowed_domains": "a.example"}}, "filters.allowed_domains"),
        ({"filters": {"allowed_domains": ["a"] * 101}}, "filters.allowed_domains"),
        ({"filters": {"allowed_domains": ["a" * 256]}}, "filters.allowed_domains[0]"),
        ({"filters": {"allowed_domains": ["a"], "blocked_domains": ["b"]}}, "filters"),
        ({"user_location": {"type": "exact"}}, "user_location.type"),
        ({"user_location": {"city": "x" * 256}}, "user_location.city"),
        ({"user_location": {"city": 7}}, "user_location.city"),
    ],
)
def test_a_search_that_cannot_be_is_refused(fields: dict[str, Any], param: str) -> None:
    asked = {"tools": [tool("f"), {"type": "web_search", **fields}]}
    assert error_of(**asked) == ("invalid_value", f"tools[1].{param}")


def test_tools_may_come_in_an_item() -> None:
    brought = {"type": "additional_tools", "role": "developer", "tools": [PATCH, AGENTS]}
    said = {"role": "user", "content": "Hi"}
    turn = parse(input=[brought, said], tools=[tool("f")])
    assert turn.tools is not None
    assert [t.name for t in turn.tools] == ["f", "apply_patch", "agents__spawn", "agents__tell"]
    assert len(turn.messages) == 1
    broken = {**brought, "tools": [PATCH, {"type": "custom"}]}
    assert error_of(input=[broken, said]) == ("missing_field", "input[0].tools[1].name")


@pytest.mark.parametrize(
    ("choice", "name"),
    [
        ({"type": "custom", "name": "apply_patch"}, "apply_patch"),
        ({"type": "function", "name": "f"}, "f"),
        ({"type": "function", "name": "spawn"}, "agents__spawn"),
        ({"type": "custom", "name": "tell", "namespace": "agents"}, "agents__tell"),
    ],
)
def test_a_tool_is_chosen_by_the_name_the_client_knows(choice: Any, name: str) -> None:
    turn = parse(tools=ALL, tool_choice=choice)
    assert turn.options.tool_choice == ToolChoice("named", name)
    assert turn.echo["tool_choice"] == choice


def test_some_tools_are_allowed() -> None:
    wishes = [
        {"type": "custom", "name": "apply_patch"},
        {"type": "namespace", "name": "agents"},
        {"type": "web_search"},
    ]
    turn = parse(tools=ALL, tool_choice={"type": "allowed_tools", "mode": "auto", "tools": wishes})
    assert turn.tools is not None
    assert [each.name for each in turn.tools] == ["apply_patch", "agents__spawn", "agents__tell"]
    search = {"type": "web_search"}
    for allowed in (wishes, [search], wishes[:1]):
        choice = {"type": "allowed_tools", "mode": "auto", "tools": allowed}
        turn = parse(tools=[PATCH, AGENTS, search], tool_choice=choice)
        assert (turn.options.search is not None) == (search in allowed)


@pytest.mark.parametrize(
    ("fields", "code", "param"),
    [
        ({"tools": ALL, "tool_choice": {"type": "web_search"}}, "unsupported_parameter",
         "tool_choice.type"),
        ({"tools": [{"type": "file_search"}], "tool_choice": "required"}, "invalid_value",
         "tool_choice"),
        ({"tools": [{"type": "custom"}]}, "missing_field", "tools[0].name"),
        ({"tools": [{"type": "namespace", "name": "n"}]}, "missing_field", "tools[0].tools"),
        ({"tools": [{"type": "namespace", "tools": []}]}, "missing_field", "tools[0].name"),
        ({"tools": [{**AGENTS, "tools": [AGENTS]}]}, "unsupported_parameter",
         "tools[0].tools[0].type"),
        ({"tools": [{**PATCH, "format": {"type": "x"}}]}, "invalid_value", "tools[0].format.type"),
        ({"tools": [{**PATCH, "format": {**LARK, "syntax": "ebnf"}}]}, "invalid_value",
         "tools[0].format.syntax"),
        ({"tools": [AGENTS, tool("agents__spawn")]}, "invalid_value", "tools[1].name"),
        ({"tools": [{**AGENTS, "tools": [{}] * MAX_TOOLS}]}, "invalid_value", "tools"),
        ({"tools": ALL, "tool_choice": {"type": "custom", "name": "x"}}, "invalid_value",
         "tool_choice.name"),
    ],
)  # fmt: skip
def test_what_is_refused(fields: dict[str, Any], code: str, param: str) -> None:
    assert error_of(**fields) == (code, param)


def test_context_management_is_named_as_ignored() -> None:
    asked = [{"type": "compaction", "compact_threshold": 1000}]
    assert parse(context_management=asked).ignored == ("context_management",)
    wrong = ("unsupported_parameter", "context_management[0].type")
    assert error_of(context_management=[{"type": "x"}]) == wrong


# -- calls -----------------------------------------------------------------------------------------


def test_calls_come_back_as_what_they_were() -> None:
    namespaced = ToolCall("c", "agents__spawn", "{}", form=ToolForm("spawn", "agents"))
    assert encode_call(namespaced) == {
        "type": "function_call",
        "call_id": "c",
        "name": "spawn",
        "namespace": "agents",
        "arguments": "{}",
    }
    text = '{"input": "*** Begin Patch\\n"}'
    custom = ToolCall("c", "p", text, form=ToolForm("p", None, True))
    assert encode_call(custom) == {
        "type": "custom_tool_call",
        "call_id": "c",
        "name": "p",
        "input": "*** Begin Patch\n",
    }


def told(*fragments: str) -> tuple[str, list[str], dict[str, Any]]:
    """The deltas joined, the kinds of events, and the item."""
    output = Output(TURN)
    events = output.add(ToolCallStarted(0, "c", "p", ToolForm("p", None, True)))
    for fragment in fragments:
        events += output.add(ToolCallDelta(0, fragment))
    events += output.finish("completed")
    kinds = [event["type"].removeprefix("response.") for event in events]
    deltas = [event["delta"] for event in events if "delta" in event]
    done = [e for e in events if e["type"] == "response.custom_tool_call_input.done"]
    assert len(done) == 1
    assert done[0]["input"] == events[-1]["item"]["input"]
    assert events[0]["item"]["input"] == ""
    return "".join(deltas), kinds, output.encode()[0]


def test_the_text_of_a_custom_tool_is_streamed() -> None:
    deltas, kinds, item = told('{"inp', 'ut": "ab', "c\\", "n\\u00", 'e9d"}')
    assert deltas == item["input"] == "abc\néd"
    assert kinds == [
        "output_item.added",
        "custom_tool_call_input.delta",
        "custom_tool_call_input.delta",
        "custom_tool_call_input.delta",
        "custom_tool_call_input.delta",
        "custom_tool_call_input.done",
        "output_item.done",
    ]
    assert item["type"] == "custom_tool_call"
    assert item["status"] == "completed"


def test_arguments_of_another_form_come_whole() -> None:
    assert told('{"a": 1, "input": "x"}')[0] == "x"
    assert told('{"patch": "x"}')[0] == '{"patch": "x"}'
    assert told()[2]["input"] == ""
    assert told('{"input": "ab', "c")[2]["input"] == "abc"  # the answer was cut


@given(st.text(st.characters(exclude_categories=())), st.lists(st.integers(0, 400)), st.booleans())
def test_any_text_cut_anywhere(text: str, cuts: list[int], ascii_only: bool) -> None:
    arguments = json.dumps({"input": text}, ensure_ascii=ascii_only)
    places = sorted({0, len(arguments), *(cut for cut in cuts if cut < len(arguments))})
    reader = InputText()
    pieces = [reader.feed(arguments[a:b]) for a, b in pairwise(places)]
    rest = json.loads(arguments)["input"][reader.given :]
    assert "".join(pieces) + rest == json.loads(arguments)["input"]


def test_what_is_no_escape_costs_no_more_than_it_is_long() -> None:
    reader = InputText()
    reader.feed('{"input": "\\uZZZZ')
    for _ in range(100_000):
        reader.feed("xxxxxxxxxx")
    assert len(reader._rest) < 100
