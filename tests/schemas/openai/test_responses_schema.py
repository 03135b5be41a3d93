"""The request of a response: its fields, and what they ask. Items have their own tests."""

from __future__ import annotations

from typing import Any

import pytest
from attrs import evolve

from ccapi.schemas.errors import InvalidRequest
from ccapi.schemas.message import Message
from ccapi.schemas.openai.chat import parse_chat
from ccapi.schemas.openai.responses import ResponseTurn, parse_response
from ccapi.schemas.turn import Tool, ToolChoice

from ...support.responses import tool

F = [tool("f")]
ARRAY = tool("f", parameters={"type": "array"})
NAMED = {"type": "function", "name": "g"}
MCP = {"type": "mcp"}
ALLOWED = {"type": "allowed_tools", "mode": "auto", "tools": [tool("g")]}
BARE = {"type": "json_schema", "name": "n"}
BOTH = {"conversation": "c", "previous_response_id": "r"}
EMPTY = '{"type":"object","properties":{}}'


def parse(**fields: Any) -> ResponseTurn:
    return parse_response({"input": "Hi", **fields})


def error_of(**fields: Any) -> tuple[str, str | None]:
    with pytest.raises(InvalidRequest) as caught:
        parse(**fields)
    assert caught.value.status == 400
    return caught.value.code, caught.value.param


def test_the_smallest_request() -> None:
    turn = parse()
    assert turn.messages == (Message("user", ("Hi",)),)
    assert turn.model is turn.system is turn.conversation_id is turn.previous_response_id is None
    assert (turn.tools, turn.schema) == (None, None)
    assert turn.store
    assert (turn.stream, turn.background) == (False, False)
    assert (turn.cache_fields, turn.ignored) == ({}, ())
    assert turn.options.whole


def test_null_is_absent() -> None:
    everything = dict.fromkeys(
        [
            "model", "instructions", "stream", "store", "background", "previous_response_id",
            "conversation", "tools", "tool_choice", "parallel_tool_calls", "text", "temperature",
            "top_p", "max_output_tokens", "reasoning", "user", "safety_identifier",
            "service_tier", "metadata", "include", "truncation", "max_tool_calls",
            "prompt_cache_key", "stream_options", "top_logprobs", "prompt",
        ]
    )  # fmt: skip
    assert parse(**everything) == parse()


def test_what_is_unknown_is_passed_over() -> None:
    asked = parse(moderation={"model": "x"}, surprise=[1])
    assert asked.ignored == ("moderation", "surprise")
    assert evolve(asked, ignored=()) == parse()


def test_instructions_stand_before_the_system_text_of_the_input() -> None:
    items = [{"role": "developer", "content": "Two."}, {"role": "user", "content": "Hi"}]
    assert parse(instructions="One.", input=items).system == "One.\n\nTwo."
    assert parse(instructions="One.").system == "One."
    assert parse(instructions="").system == ""
    assert parse(input=items).system == "Two."


def test_tools_and_their_choice() -> None:
    turn = parse(tools=[tool("f", description="F.", strict=True), tool("g")])
    assert turn.tools == (Tool("f", "F.", EMPTY, True), Tool("g", "", EMPTY))
    tools = [tool("f"), tool("g")]
    choices: dict[str, Any] = {
        "auto": ToolChoice("auto"),
        "none": ToolChoice("none"),
        "required": ToolChoice("required"),
    }
    for given, choice in choices.items():
        assert parse(tools=tools, tool_choice=given).options.tool_choice == choice
    named = parse(tools=tools, tool_choice={"type": "function", "name": "g"})
    assert named.options.tool_choice == ToolChoice("named", "g")
    allowed = {"type": "allowed_tools", "mode": "required", "tools": [tool("g")]}
    some = parse(tools=tools, tool_choice=allowed)
    assert some.options.tool_choice == ToolChoice("required")
    assert some.tools is not None
    assert [each.name for each in some.tools] == ["g"]


def test_a_form_of_the_answer() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "string"}}}
    form = {"type": "json_schema", "name": "n", "schema": schema, "strict": True}
    assert (
        parse(text={"format": form}).schema
        == '{"type":"object","properties":{"a":{"type":"string"}}}'
    )
    assert parse(text={"format": {"type": "text"}}).schema is None
    assert parse(text={"format": {"type": "json_object"}}).schema == '{"type":"object"}'


def test_thinking_is_given_to_clients_that_ask_for_a_summary() -> None:
    assert parse(reasoning={"effort": "high", "summary": "auto"}).options.reasoning
    assert parse(reasoning={"generate_summary": "concise"}).options.reasoning
    effort_alone = parse(reasoning={"effort": "high"}).options
    assert (effort_alone.effort, effort_alone.reasoning) == ("high", False)
    none = parse(reasoning={"effort": "none", "summary": "auto"})
    assert not none.options.reasoning
    assert "reasoning.summary" in none.ignored
    by_default = parse_response({"input": "Hi"}, reasoning=True)
    assert by_default.options.reasoning
    assert not parse_response({"input": "Hi", "reasoning": {}}, reasoning=True).options.reasoning


def test_what_shapes_an_answer_has_the_same_name_as_in_chat() -> None:
    """So that the answer to a question may be given again, whichever way it is asked."""
    chat = {"messages": [{"role": "user", "content": "Hi"}], "temperature": 0.5, "max_tokens": 9}
    wishes = {"verbosity": "low"}
    turn = parse(temperature=0.5, max_output_tokens=9, text=wishes)
    assert turn.cache_fields == parse_chat(chat | wishes).cache_fields


def test_conversations_and_earlier_responses() -> None:
    assert parse(conversation="conv_1").conversation_id == "conv_1"
    assert parse(conversation={"id": "conv_1"}).conversation_id == "conv_1"
    assert parse(conversation_id="conv_1").conversation_id == "conv_1"
    assert parse(previous_response_id="resp_1").previous_response_id == "resp_1"


def test_what_is_ignored_is_named() -> None:
    turn = parse(
        include=["reasoning.encrypted_content"],
        truncation="auto",
        max_tool_calls=3,
        prompt_cache_key="x",
        text={"verbosity": "low"},
        service_tier="flex",
        parallel_tool_calls=False,
        stream_options={"include_obfuscation": True},
        user="a",
        safety_identifier="b",
        metadata={"a": "b"},
    )
    assert set(turn.ignored) == {
        "include", "truncation", "max_tool_calls", "prompt_cache_key", "text.verbosity",
        "service_tier", "parallel_tool_calls", "stream_options", "safety_identifier",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("fields", "code", "param"),
    [
        ({"input": None}, "missing_field", "input"),
        ({"input": 3}, "invalid_type", "input"),
        ({"input": [3]}, "invalid_type", "input[0]"),
        ({"tools": [{"type": "functoin"}]}, "unsupported_parameter", "tools[0].type"),
        ({"tools": [{"type": "function"}]}, "missing_field", "tools[0].name"),
        ({"tools": [tool("")]}, "invalid_value", "tools[0].name"),
        ({"tools": [tool("f"), tool("f")]}, "invalid_value", "tools[1].name"),
        ({"tools": [ARRAY]}, "invalid_schema", "tools[0].parameters"),
        ({"tool_choice": "required"}, "invalid_value", "tool_choice"),
        ({"tool_choice": "sometimes"}, "invalid_value", "tool_choice"),
        ({"tools": F, "tool_choice": NAMED}, "invalid_value", "tool_choice.name"),
        ({"tools": F, "tool_choice": MCP}, "missing_field", "tool_choice.server_label"),
        ({"tools": F, "tool_choice": {**MCP, "server_label": "a"}}, "invalid_value",
         "tool_choice.server_label"),
        ({"tools": F, "tool_choice": ALLOWED}, "invalid_value", "tool_choice.tools[0]"),
        ({"text": {"format": {"type": "grammar"}}}, "unsupported_parameter", "text.format.type"),
        ({"text": {"format": BARE}}, "missing_field", "text.format.schema"),
        ({"text": {"verbosity": "loud"}}, "invalid_value", "text.verbosity"),
        ({"temperature": 3}, "invalid_value", "temperature"),
        ({"max_output_tokens": 0}, "invalid_value", "max_output_tokens"),
        ({"reasoning": {"effort": "huge"}}, "invalid_value", "reasoning.effort"),
        ({"reasoning": {"summary": "long"}}, "invalid_value", "reasoning.summary"),
        ({"include": ["everything"]}, "invalid_value", "include[0]"),
        ({"include": ["message.output_text.logprobs"]}, "unsupported_parameter", "include[0]"),
        ({"top_logprobs": 3}, "unsupported_parameter", "top_logprobs"),
        ({"prompt": {"id": "pmpt_1"}}, "unsupported_parameter", "prompt"),
        ({"truncation": "some"}, "invalid_value", "truncation"),
        ({"metadata": {"a": 1}}, "invalid_value", "metadata"),
        ({"metadata": {str(n): "" for n in range(17)}}, "invalid_value", "metadata"),
        ({"metadata": {"a": "b" * 513}}, "invalid_value", "metadata"),
        ({"background": True, "store": False}, "invalid_value", "background"),
        (BOTH, "invalid_value", "previous_response_id"),
        ({"previous_response_id": ""}, "invalid_value", "previous_response_id"),
        ({"conversation": "a", "conversation_id": "b"}, "invalid_value", "conversation"),
    ],
)  # fmt: skip
def test_what_is_refused(fields: dict[str, Any], code: str, param: str) -> None:
    assert error_of(**fields) == (code, param)


def test_nothing_to_generate_is_asked_for_on_a_websocket_alone() -> None:
    raw = {"generate": False, "instructions": "Be brief."}
    turn = parse_response(raw, may_prepare=True)
    assert (turn.messages, turn.generate) == ((), False)
    with pytest.raises(InvalidRequest) as caught:
        parse_response(raw)
    assert caught.value.param == "input"
    assert parse(generate=False).generate
