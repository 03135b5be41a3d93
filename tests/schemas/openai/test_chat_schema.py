"""The chat request alone: its fields, and what they ask. Messages have their own tests."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pytest
from attrs import evolve, frozen
from hypothesis import given
from hypothesis import strategies as st

from ccapi.schemas.convert import read_json, structure, write_json
from ccapi.schemas.errors import InvalidRequest
from ccapi.schemas.message import Message
from ccapi.schemas.openai.chat import MAX_MESSAGES, MAX_PARTS, ChatTurn, parse_chat
from ccapi.schemas.openai.parameters import one_conversation
from ccapi.schemas.turn import DigestedText, Options, SearchWish, Tool, ToolChoice

HI = {"role": "user", "content": "Hi"}


def parse(**fields: Any) -> ChatTurn:
    return parse_chat({"messages": [HI], **fields})


def error_of(raw: Any) -> tuple[str, str | None]:
    with pytest.raises(InvalidRequest) as caught:
        parse_chat(raw)
    assert caught.value.status == 400
    return caught.value.code, caught.value.param


# -- requests --------------------------------------------------------------------------------------


def test_the_smallest_request() -> None:
    turn = parse()
    assert turn.messages == (Message("user", ("Hi",)),)
    assert turn.model is turn.system is turn.conversation_id is None
    assert not turn.stream
    assert not turn.include_usage
    assert turn.cache_fields == {}
    assert turn.ignored == ()


def test_null_means_absent_and_unknown_fields_are_ignored() -> None:
    given_fields = dict.fromkeys(
        ["model", "stream", "stream_options", "temperature", "stop", "n", "tools", "tool_choice",
         "response_format", "conversation", "conversation_id", "metadata", "logprobs"]
    )  # fmt: skip
    asked = parse(**given_fields, from_the_future={"x": [1]})
    assert asked == evolve(parse(), ignored=("from_the_future",))


def test_harmless_values_of_unsupported_fields_pass() -> None:
    turn = parse(
        n=1, logprobs=False, top_logprobs=0, logit_bias={}, response_format={"type": "text"},
        tool_choice="auto", functions=[], function_call="none", modalities=["text"], stop=[],
        parallel_tool_calls=None, user="", safety_identifier="",
    )  # fmt: skip
    assert turn == parse()


def test_what_shapes_the_answer() -> None:
    turn = parse(
        temperature=1, top_p=0.5, stop=["a", "b"], max_tokens=5, user="u", service_tier="default",
        parallel_tool_calls=False, tools=[tool()], tool_choice="required",
    )  # fmt: skip
    assert turn.options == Options(
        temperature=1, top_p=0.5, stop=("a", "b"), max_tokens=5, user="u",
        service_tier="standard_only", parallel_tool_calls=False,
        tool_choice=ToolChoice("required"), whole=True,
    )  # fmt: skip
    assert turn.ignored == ("top_p",)  # gives way to the temperature
    assert turn.cache_fields == {
        "temperature": 1, "top_p": 0.5, "stop": ["a", "b"], "max_tokens": 5,
        "parallel_tool_calls": False, "tool_choice": ["required", None],
    }  # fmt: skip
    assert json.loads(write_json(turn.cache_fields)) == turn.cache_fields


def test_fields_without_effect_are_named() -> None:
    turn = parse(
        presence_penalty=0, frequency_penalty=1, seed=7, verbosity="low", metadata={}, store=False,
        prompt_cache_key="k", service_tier="flex", user="u", safety_identifier="v",
        parallel_tool_calls=True, temperature=0.5, reasoning_effort="none", include_reasoning=True,
    )  # fmt: skip
    assert turn.ignored == (
        "parallel_tool_calls", "include_reasoning", "safety_identifier", "service_tier",
        "presence_penalty", "frequency_penalty", "seed", "verbosity", "metadata", "store",
        "prompt_cache_key",
    )  # fmt: skip
    assert turn.cache_fields == {
        "presence_penalty": 0, "frequency_penalty": 1, "seed": 7, "verbosity": "low",
        "temperature": 0.5, "effort": "none",
    }  # fmt: skip
    assert parse(temperature=0.5, reasoning_effort="high").ignored == ("temperature",)


def test_a_stream_is_not_taken_whole() -> None:
    assert parse().options.whole
    assert not parse(stream=True).options.whole


@pytest.mark.parametrize(
    ("fields", "limit", "ignored"),
    [
        ({"max_tokens": 5}, 5, ()),
        ({"max_completion_tokens": 6}, 6, ()),
        ({"max_tokens": 5, "max_completion_tokens": 5}, 5, ()),
        ({"max_tokens": 5, "max_completion_tokens": 6}, 6, ("max_tokens",)),
    ],
)
def test_the_newer_limit_wins(fields: dict[str, int], limit: int, ignored: tuple[str, ...]) -> None:
    turn = parse(**fields)
    assert (turn.options.max_tokens, turn.ignored) == (limit, ignored)


@pytest.mark.parametrize(
    ("fields", "effort", "reasoning"),
    [
        ({}, None, False),
        ({"reasoning_effort": "none"}, "none", False),
        ({"reasoning_effort": "minimal"}, "low", True),
        ({"reasoning_effort": "xhigh"}, "xhigh", True),
        ({"reasoning_effort": "max"}, "max", True),
        ({"reasoning": {"effort": "medium", "summary": "auto"}}, "medium", True),
        ({"reasoning": {}}, None, False),
        ({"reasoning_effort": "low", "reasoning": {"effort": "high"}}, "low", True),
        ({"include_reasoning": True}, None, True),
        ({"include_reasoning": False, "reasoning_effort": "high"}, "high", False),
    ],
)
def test_thinking(fields: dict[str, Any], effort: str | None, reasoning: bool) -> None:
    options = parse(**fields).options
    assert (options.effort, options.reasoning) == (effort, reasoning)


def test_one_stop_text_is_one() -> None:
    assert parse(stop="END").options.stop == ("END",)


def test_requests_that_ask_for_something_else_have_other_shapes() -> None:
    asked: list[dict[str, Any]] = [
        {}, {"temperature": 0}, {"top_p": 0}, {"max_tokens": 1}, {"stop": "x"}, {"seed": 0},
        {"reasoning_effort": "low"}, {"reasoning_effort": "high"}, {"include_reasoning": True},
        {"response_format": {"type": "json_object"}}, {"tool_choice": "none"},
        {"tools": [tool()], "tool_choice": "required"},
        {"tools": [tool()], "tool_choice": named("look")},
        {"parallel_tool_calls": False},
    ]  # fmt: skip
    shapes = {write_json(parse(**fields).cache_fields) for fields in asked}
    assert len(shapes) == len(asked)
    same: list[dict[str, Any]] = [
        {"max_tokens": 1},
        {"max_completion_tokens": 1},
        {"max_tokens": 1, "user": "u"},
    ]
    assert len({write_json(parse(**fields).cache_fields) for fields in same}) == 1


# -- tools and formats -----------------------------------------------------------------------------


def tool(name: str = "look", **fields: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, **fields}}


def named(name: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name}}


def test_tools() -> None:
    schema = {"properties": {"b": {"type": "string"}, "a": {}}, "type": "object"}
    turn = parse(
        tools=[
            tool(),
            tool("Wetter in Köln?", description="D", parameters=schema, strict=True),
            tool("c", parameters={"required": ["x"]}, description=None, strict=None),
            tool("x" * 256, parameters={}),
        ]
    )
    text = '{"properties":{"b":{"type":"string"},"a":{}},"type":"object"}'
    assert turn.tools == (
        Tool("look"),
        Tool("Wetter in Köln?", "D", text, strict=True),
        Tool("c", "", '{"type":"object","required":["x"]}'),
        Tool("x" * 256, "", '{"type":"object"}'),
    )


def test_no_tools_are_not_the_same_as_nothing_about_tools() -> None:
    assert parse().tools is None
    assert parse(tools=None).tools is None
    assert parse(tools=[]).tools == ()


def test_a_tool_may_be_named() -> None:
    turn = parse(tools=[tool("a"), tool("b")], tool_choice=named("b"))
    assert turn.options.tool_choice == ToolChoice("named", "b")
    assert parse(tool_choice="none").options.tool_choice == ToolChoice("none")


def test_a_named_conversation_may_have_tools_that_the_request_does_not_repeat() -> None:
    turn = parse(conversation_id="c", tool_choice=named("b"), parallel_tool_calls=True)
    assert turn.options.tool_choice == ToolChoice("named", "b")
    assert turn.ignored == ()
    raw = {"messages": [HI], "tool_choice": "required"}
    assert parse_chat(raw, names_conversation=True).options.tool_choice.mode == "required"
    assert error_of(raw) == ("invalid_value", "tool_choice")
    assert error_of(raw | {"conversation_id": "c", "tools": []}) == ("invalid_value", "tool_choice")


@pytest.mark.parametrize(
    ("given_format", "schema"),
    [
        ({"type": "text"}, None),
        ({"type": "json_object"}, '{"type":"object"}'),
        ({"type": "json_schema", "json_schema": {"name": "n", "schema": {}}}, '{"type":"object"}'),
        (
            {
                "type": "json_schema",
                "json_schema": {
                    "name": "n",
                    "strict": True,
                    "description": "D",
                    "schema": {"$ref": "#/$defs/x", "$defs": {"x": {}}},
                },
            },
            '{"type":"object","$ref":"#/$defs/x","$defs":{"x":{}},"description":"D"}',
        ),
    ],
)
def test_response_formats(given_format: dict[str, Any], schema: str | None) -> None:
    assert parse(response_format=given_format).schema == schema


def schema_format(schema: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}


DEEP: dict[str, Any] = {}
for _ in range(900):
    DEEP = {"properties": {"x": DEEP}}


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "array"},
        {"type": ["object", "null"]},
        {"type": None},
        {"properties": []},
        {"properties": {"a": {"type": "strin"}}},
        {"required": "a"},
        {"properties": {"a": {"$ref": "#/$defs/ghost"}}},
        {"properties": {"a": {"$ref": "http://127.0.0.1/schema"}}},
        {"properties": {"a": {"anyOf": [{}] * 10_000}}},
        {"description": "x" * 70_000},
        DEEP,
    ],
)
def test_schemas_that_are_none(schema: dict[str, Any]) -> None:
    field = "response_format"
    path = f"{field}.json_schema.schema"
    assert error_of({"messages": [HI], field: schema_format(schema)}) == ("invalid_schema", path)
    tools = [tool(), tool("b", parameters=schema)]
    path = "tools[1].function.parameters"
    assert error_of({"messages": [HI], "tools": tools}) == ("invalid_schema", path)


def test_the_error_of_a_faulty_schema_is_short() -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse(response_format=schema_format({"required": "x" * 10_000}))
    assert len(caught.value.message) < 500


def test_the_subschemas_of_all_tools_together_have_a_limit() -> None:
    tools = [tool(str(n), parameters={"anyOf": [{}] * 4_000}) for n in range(5)]
    path = "tools[4].function.parameters"
    assert error_of({"messages": [HI], "tools": tools}) == ("invalid_schema", path)
    assert len(parse(tools=tools[:4]).tools or ()) == 4


def test_all_tools_together_have_a_limit() -> None:
    tools = [tool(str(n), parameters={"description": "x" * 60_000}) for n in range(9)]
    assert error_of({"messages": [HI], "tools": tools}) == ("invalid_value", "tools")
    assert len(parse(tools=tools[:8]).tools or ()) == 8


@pytest.mark.parametrize(
    ("fields", "code", "param"),
    [
        ({"tools": [{"type": "custom"}]}, "unsupported_parameter", "tools[0].type"),
        ({"tools": [tool(), {"type": "web_search"}]}, "unsupported_parameter", "tools[1].type"),
        ({"tools": [{"type": "function"}]}, "missing_field", "tools[0].function"),
        (
            {"tools": [{"type": "function", "function": {}}]},
            "missing_field",
            "tools[0].function.name",
        ),
        ({"tools": [tool("")]}, "invalid_value", "tools[0].function.name"),
        ({"tools": [tool("x" * 257)]}, "invalid_value", "tools[0].function.name"),
        ({"tools": [tool(), tool()]}, "invalid_value", "tools[1].function.name"),
        ({"tools": [tool(parameters=[])]}, "invalid_type", "tools[0].function.parameters"),
        ({"tools": [tool(str(n)) for n in range(513)]}, "invalid_value", "tools"),
        ({"tools": [tool()], "tool_choice": "look"}, "invalid_value", "tool_choice"),
        (
            {"tools": [tool()], "tool_choice": named("b")},
            "invalid_value",
            "tool_choice.function.name",
        ),
        (
            {"tools": [tool()], "tool_choice": {"type": "function"}},
            "missing_field",
            "tool_choice.function",
        ),
        (
            {"tools": [tool()], "tool_choice": {"type": "allowed_tools", "allowed_tools": {}}},
            "unsupported_parameter",
            "tool_choice.type",
        ),
        ({"tool_choice": named("b")}, "invalid_value", "tool_choice"),
        ({"response_format": {}}, "missing_field", "response_format.type"),
        (
            {"response_format": {"type": "grammar"}},
            "unsupported_parameter",
            "response_format.type",
        ),
        (
            {"response_format": {"type": "json_schema"}},
            "missing_field",
            "response_format.json_schema",
        ),
        (
            {"response_format": schema_format(None)},
            "missing_field",
            "response_format.json_schema.schema",
        ),
        (
            {"response_format": schema_format(True)},
            "invalid_type",
            "response_format.json_schema.schema",
        ),
        ({"stop": ["a", ""]}, "invalid_value", "stop[1]"),
        ({"reasoning": {"effort": "huge"}}, "invalid_value", "reasoning.effort"),
        ({"conversation_id": "c", "n": 2}, "unsupported_parameter", "n"),
    ],
)
def test_wishes_that_do_not_fit(fields: dict[str, Any], code: str, param: str) -> None:
    assert error_of({"messages": [HI], **fields}) == (code, param)


def test_several_answers() -> None:
    turn = parse(n=3)
    assert turn.choices == (turn,) * 3
    assert parse().choices == (parse(),)
    assert turn.cache_fields == parse().cache_fields
    with pytest.raises(InvalidRequest) as caught:
        parse_chat({"messages": [HI], "n": 2}, names_conversation=True)
    assert caught.value.param == "n"


def test_include_usage() -> None:
    assert parse(stream=True, stream_options={"include_usage": True}).include_usage
    assert not parse(stream=True, stream_options={"include_usage": None}).include_usage


@pytest.mark.parametrize(
    "fields",
    [{"conversation_id": "c"}, {"conversation": "c"}, {"conversation": {"id": "c"}}],
)
def test_a_conversation_may_be_named_in_three_ways(fields: dict[str, Any]) -> None:
    assert parse(**fields).conversation_id == "c"


def test_two_names_for_the_conversation_must_agree() -> None:
    assert parse(conversation_id="c", conversation={"id": "c"}).conversation_id == "c"
    raw: dict[str, Any] = {"messages": [HI], "conversation_id": "c", "conversation": "d"}
    assert error_of(raw) == ("invalid_value", "conversation")
    assert error_of(raw | {"conversation": {"id": "d"}}) == ("invalid_value", "conversation.id")
    assert one_conversation({"a": None, "b": "x"}) == "x"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"conversation_id": ""}, "conversation_id"),
        ({"conversation": ""}, "conversation"),
        ({"conversation": {"id": ""}}, "conversation.id"),
        ({"conversation_id": "c", "conversation": ""}, "conversation"),
    ],
)
def test_no_conversation_has_an_empty_name(fields: dict[str, Any], param: str) -> None:
    assert error_of({"messages": [HI], **fields}) == ("invalid_value", param)


def message(**fields: Any) -> dict[str, Any]:
    return {"messages": [HI, {"role": "user", "content": "x"} | fields]}


@pytest.mark.parametrize(
    ("raw", "code", "param"),
    [
        ([], "invalid_type", None),
        ("text", "invalid_type", None),
        ({}, "missing_field", "messages"),
        ({"messages": None}, "invalid_type", "messages"),
        ({"messages": "Hi"}, "invalid_type", "messages"),
        ({"messages": {}}, "invalid_type", "messages"),
        ({"messages": []}, "invalid_value", "messages"),
        ({"messages": ["Hi"]}, "invalid_type", "messages[0]"),
        ({"messages": [{"content": "x"}]}, "missing_field", "messages[0].role"),
        ({"messages": [HI, {"role": 1}]}, "invalid_type", "messages[1].role"),
        (
            {"messages": [{"role": "system", "content": " "}]},
            "empty_content",
            "messages[0].content",
        ),
        (message(role="robot"), "invalid_value", "messages[1].role"),
        (message(role="tool"), "missing_field", "messages[1].tool_call_id"),
        (message(role="function"), "unsupported_parameter", "messages[1].role"),
        (message(role="assistant", content=" "), "invalid_value", "messages[1].role"),
        (message(role="assistant", content=None), "invalid_value", "messages[1].role"),
        (message(role="assistant", content=[]), "invalid_value", "messages[1].content"),
        (message(content=None), "missing_field", "messages[1].content"),
        (message(content=1), "invalid_type", "messages[1].content"),
        (message(content={"text": "x"}), "invalid_type", "messages[1].content"),
        (message(content=""), "empty_content", "messages[1].content"),
        (message(content=" \n"), "empty_content", "messages[1].content"),
        (message(content=[]), "invalid_value", "messages[1].content"),
        (message(content=["x"]), "invalid_type", "messages[1].content[0]"),
        (message(content=[{"text": "x"}]), "missing_field", "messages[1].content[0].type"),
        (message(content=[{"type": "text"}]), "missing_field", "messages[1].content[0].text"),
        (
            message(content=[{"type": "text", "text": "a"}, {"type": "text", "text": 2}]),
            "invalid_type",
            "messages[1].content[1].text",
        ),
        (message(name=1), "invalid_type", "messages[1].name"),
    ],
)
def test_messages_that_cannot_be_asked(raw: Any, code: str, param: str | None) -> None:
    assert error_of(raw) == (code, param)


@pytest.mark.parametrize(
    ("name", "value", "code"),
    [
        ("model", 1, "invalid_type"),
        ("stream", 1, "invalid_type"),
        ("stream", "true", "invalid_type"),
        ("stream_options", [], "invalid_type"),
        ("temperature", "1", "invalid_type"),
        ("temperature", True, "invalid_type"),
        ("temperature", 2.1, "invalid_value"),
        ("top_p", -0.1, "invalid_value"),
        ("presence_penalty", 3, "invalid_value"),
        ("max_tokens", 1.0, "invalid_type"),
        ("max_tokens", 0, "invalid_value"),
        ("max_completion_tokens", -1, "invalid_value"),
        ("seed", "7", "invalid_type"),
        ("stop", 1, "invalid_type"),
        ("stop", ["a"] * 5, "invalid_value"),
        ("metadata", [], "invalid_type"),
        ("user", 5, "invalid_type"),
        ("conversation_id", 5, "invalid_type"),
        ("stop", "", "invalid_value"),
        ("n", 0, "invalid_value"),
        ("n", 9, "invalid_value"),
        ("reasoning_effort", "huge", "invalid_value"),
        ("include_reasoning", "yes", "invalid_type"),
        ("parallel_tool_calls", 0, "invalid_type"),
        ("prediction", {"type": "content", "content": "x"}, "unsupported_parameter"),
        ("logprobs", True, "unsupported_parameter"),
        ("top_logprobs", 2, "unsupported_parameter"),
        ("logit_bias", {"50256": -100}, "unsupported_parameter"),
        ("tool_choice", "required", "invalid_value"),
        ("functions", [{"name": "f"}], "unsupported_parameter"),
        ("modalities", ["text", "audio"], "unsupported_parameter"),
        ("audio", {"voice": "alloy"}, "unsupported_parameter"),
        ("web_search_options", 7, "invalid_type"),
    ],
)
def test_fields_that_do_not_fit(name: str, value: Any, code: str) -> None:
    assert error_of({"messages": [HI], name: value}) == (code, name)


def test_paths_go_on_into_objects_and_arrays() -> None:
    base = {"messages": [HI]}
    assert error_of(base | {"stop": ["a", 1]}) == ("invalid_type", "stop[1]")
    assert error_of(base | {"conversation": {}}) == ("missing_field", "conversation.id")
    options = {"stream_options": {"include_usage": "yes"}}
    assert error_of(base | options) == ("invalid_type", "stream_options.include_usage")


def test_a_search_of_the_web_is_a_wish() -> None:
    near = {"type": "approximate", "approximate": {"country": "IT", "city": "Rome"}}
    given = {"search_context_size": "low", "user_location": near, "depth": 3}
    turn = parse_chat({"messages": [HI], "web_search_options": given})
    names = ("web_search_options",)
    wish = SearchWish(location=(("city", "Rome"), ("country", "IT")), names=names)
    assert turn.options.search == wish
    assert turn.options.search.names == names
    assert turn.ignored == ("web_search_options.search_context_size", "web_search_options.depth")
    plain = parse_chat({"messages": [HI], "web_search_options": {}, "tool_choice": "required"})
    assert plain.options.search == SearchWish()
    assert plain.options.tool_choice.mode == "required"


@pytest.mark.parametrize(
    ("given", "code", "path"),
    [
        ({"search_context_size": "vast"}, "invalid_value", "search_context_size"),
        ({"search_context_size": 7}, "invalid_value", "search_context_size"),
        ({"user_location": "Rome"}, "invalid_value", "user_location"),
        ({"user_location": {"type": "exact"}}, "invalid_value", "user_location.type"),
        ({"user_location": {"approximate": {"city": 7}}}, "invalid_value",
         "user_location.approximate.city"),
    ],
)  # fmt: skip
def test_a_search_that_cannot_be_is_refused(given: Any, code: str, path: str) -> None:
    body = {"messages": [HI], "web_search_options": given}
    assert error_of(body) == (code, f"web_search_options.{path}")


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
FIELDS = [
    "messages", "model", "stream", "stream_options", "stop", "conversation", "n", "tools",
    "temperature", "max_tokens", "response_format", "tool_choice", "modalities", "reasoning",
]  # fmt: skip

MESSAGE_FIELDS = ["role", "content", "name", "refusal", "tool_calls", "tool_call_id", "is_error"]


@given(
    st.dictionaries(st.sampled_from(FIELDS), anything),
    st.lists(st.dictionaries(st.sampled_from(MESSAGE_FIELDS), anything)),
)
def test_no_json_value_is_more_than_refused(
    fields: dict[str, Any], messages: list[dict[str, Any]]
) -> None:
    for raw in (fields, {"messages": messages}, {"messages": messages, **fields}):
        with suppress(InvalidRequest):
            parse_chat(raw)


@frozen
class Sample:
    whole: int
    exact: float
    flag: bool


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"whole": True}, "whole"),
        ({"whole": 1.0}, "whole"),
        ({"whole": "1"}, "whole"),
        ({"whole": None}, "whole"),
        ({"exact": False}, "exact"),
        ({"exact": "1"}, "exact"),
        ({"flag": 1}, "flag"),
        ({"flag": "true"}, "flag"),
    ],
)
def test_values_are_never_made_to_fit(fields: dict[str, Any], param: str) -> None:
    fitting = {"whole": 1, "exact": 1, "flag": True}
    assert structure(fitting, Sample) == Sample(1, 1.0, True)
    with pytest.raises(InvalidRequest) as caught:
        structure(fitting | fields, Sample)
    assert (caught.value.code, caught.value.param) == ("invalid_type", param)


# -- JSON in and out -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body", [b"", b"{", b"\xff", b'{"a": NaN}', b"[" * 5000, rb'{"a": "\ud800"}', b"\xef\xbb\xbf{}"]
)
def test_bodies_that_are_no_json(body: bytes) -> None:
    with pytest.raises(InvalidRequest) as caught:
        read_json(body)
    assert caught.value.code == "invalid_json"


def test_nul_passes_as_text() -> None:
    raw = read_json(rb'{"messages": [{"role": "user", "content": "a\u0000b"}]}')
    assert parse_chat(raw).messages[0].text == "a\0b"


def test_half_a_surrogate_pair_leaves_as_a_replacement_character() -> None:
    assert json.loads(write_json({"a": "x\ud800y", "b": "\ude00"})) == {"a": "x�y", "b": "�"}
    assert json.loads(write_json("\ud83d\ude00")) == "\N{GRINNING FACE}"


def test_what_is_no_json_at_all_is_still_an_error() -> None:
    with pytest.raises(TypeError):
        write_json({"a": object()})


@pytest.mark.parametrize(
    "messages",
    [
        [{"role": "user", "content": "a"}] * (MAX_MESSAGES + 1),
        [{"role": "user", "content": [{"type": "text", "text": "a"}] * (MAX_PARTS + 1)}],
        [{"role": "assistant", "tool_calls": [{}] * (MAX_PARTS + 1)}],
    ],
)
def test_what_would_take_seconds_to_read_is_not_read(messages: list[Any]) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_chat({"messages": messages})
    assert (caught.value.code, caught.value.param) == ("invalid_value", "messages")


@pytest.mark.parametrize("messages", [None, "x", [1], [{"content": 1}], {"a": 1}])
def test_what_is_no_list_of_messages_is_refused_for_what_it_is(messages: Any) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_chat({"messages": messages})
    assert str(caught.value.param).startswith("messages")


def test_a_stop_text_and_a_form_do_not_go_together() -> None:
    message = {"role": "user", "content": "a", "name": "bob"}
    form = {"type": "json_object"}
    turn = parse_chat({"messages": [message], "stop": "x", "response_format": form})
    assert set(turn.ignored) == {"stop", "messages.name"}


@pytest.mark.parametrize(
    ("fields", "shown"),
    [
        ({}, True),
        ({"include_reasoning": False}, False),
        ({"reasoning_effort": "none"}, False),
        ({"reasoning_effort": "low"}, True),
    ],
)
def test_thinking_may_be_given_to_those_who_do_not_say(fields: dict[str, Any], shown: bool) -> None:
    raw = {"messages": [{"role": "user", "content": "a"}], **fields}
    assert parse_chat(raw, reasoning=True).options.reasoning is shown


def test_a_long_system_prompt_brings_its_digest() -> None:
    long = "Be brief. " * 10_000
    turn = parse_chat({"messages": [{"role": "system", "content": long}, HI]})
    assert turn.system == long
    assert isinstance(turn.system, DigestedText)
    assert DigestedText.of(turn.system) is turn.system, "no other copy is made of it"
