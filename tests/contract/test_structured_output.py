"""Answers that follow a schema: the CLI's own tool StructuredOutput, and how it is made a must."""

import json
from typing import Any

import pytest

from tests.contract.conftest import OpenChild
from tests.support.logins import every_login
from tests.support.messages_stub import MessagesStub, ToolUse, call, say
from tests.support.raw_cli import Frame, RawCli, adoption, kind
from tests.support.raw_tools import is_mcp, texts, tool, tool_child, tool_turn

SCHEMA = {
    "type": "object",
    "properties": {"a": {"type": "integer"}},
    "required": ["a"],
    "additionalProperties": False,
}
FORCED = {
    "tool_choice": {"type": "tool", "name": "StructuredOutput"},
    "thinking": {"type": "disabled"},
}


def output(**given: Any) -> ToolUse:
    return ToolUse("StructuredOutput", given)


def extra_body(cli: RawCli, extra: Frame) -> Frame:
    environment = {"CLAUDE_CODE_EXTRA_BODY": json.dumps(extra)}
    return cli.control_frame("apply_flag_settings", settings={"env": environment})


async def schema_turn(
    open_child: OpenChild, schema: Any, extra: Frame = FORCED
) -> tuple[list[Frame], list[str]]:
    """One turn of a child that was adopted with a schema: its frames, and what it may use."""
    async with open_child(adopt=False) as cli:
        setup = cli.control_frame("initialize", **adoption(), jsonSchema=schema)
        await cli.send(setup, extra_body(cli, extra))
        frames = await cli.turn("hi")
    return frames, next(frame["tools"] for frame in frames if kind(frame) == "system/init")


def streamed(frames: list[Frame]) -> str:
    deltas = (f["event"]["delta"] for f in frames if kind(f) == "stream_event/content_block_delta")
    return "".join(delta.get("partial_json", "") for delta in deltas)


@every_login
async def test_an_output_that_fits_ends_the_turn_after_one_request(
    open_child: OpenChild, stub: MessagesStub
) -> None:
    stub.queue.append(call(output(a=5)))
    frames, _ = await schema_turn(open_child, SCHEMA)
    (request,) = stub.requests
    assert {name: request.body[name] for name in FORCED} == FORCED
    assert [t["input_schema"] for t in request.body["tools"]] == [SCHEMA]
    assert streamed(frames) == '{"a":5}'
    assert not any(map(is_mcp, frames))
    result = frames[-1]
    assert (result["is_error"], result["stop_reason"]) == (False, "tool_use")
    assert (result["result"], result["structured_output"]) == ('{"a":5}', {"a": 5})


async def test_an_output_that_does_not_fit_is_asked_for_again_under_the_same_settings(
    open_child: OpenChild, stub: MessagesStub
) -> None:
    """The deltas of both outputs are streamed, so they must not be run together."""
    stub.queue += [call(output(a="x")), call(output(a=7))]
    frames, _ = await schema_turn(open_child, SCHEMA)
    assert streamed(frames) == '{"a":"x"}{"a":7}'
    assert frames[-1]["structured_output"] == {"a": 7}
    assert [request.body["tool_choice"] for request in stub.requests] == [FORCED["tool_choice"]] * 2
    (complaint,) = stub.requests[1].body["messages"][-1]["content"]
    assert complaint["is_error"] is True
    assert "must be integer" in complaint["content"]


async def test_the_fifth_output_that_does_not_fit_is_the_last(
    open_child: OpenChild, stub: MessagesStub
) -> None:
    stub.answer = lambda _: call(output(a="x"))
    frames, _ = await schema_turn(open_child, SCHEMA)
    result = frames[-1]
    assert len(stub.requests) == 5
    assert result["subtype"] == "error_max_structured_output_retries"
    assert result["is_error"] is True
    assert result.get("structured_output") is None
    assert "must be integer" in result["errors"][0]


async def test_text_alone_is_reminded_once_and_then_let_pass(
    open_child: OpenChild, stub: MessagesStub
) -> None:
    """Where nothing forces the tool: a success without any structured output."""
    stub.queue += [say("no"), say("still no")]
    frames, _ = await schema_turn(open_child, SCHEMA, {})
    assert len(stub.requests) == 2
    assert stub.requests[1].last_user_text.startswith("[structured-output-enforce]")
    assert frames[-1]["is_error"] is False
    assert "structured_output" not in frames[-1]


async def test_the_next_turn_of_the_child_follows_the_schema_too(
    open_child: OpenChild, stub: MessagesStub
) -> None:
    stub.queue += [call(output(a=1)), call(output(a=2))]
    async with open_child(adopt=False) as cli:
        setup = cli.control_frame("initialize", **adoption(), jsonSchema=SCHEMA)
        await cli.send(setup, extra_body(cli, FORCED))
        outputs = [(await cli.turn(text))[-1]["structured_output"] for text in ("one", "two")]
    assert outputs == [{"a": 1}, {"a": 2}]
    assert stub.requests[1].conversation == [
        ("user", ["one"]),
        ("assistant", ["<tool_use>"]),
        ("user", ["<tool_result>", "two"]),
    ]


async def test_a_clients_tool_may_be_called_before_the_output(
    open_child: OpenChild, stub: MessagesStub
) -> None:
    stub.queue += [call(ToolUse("t")), call(output(a=1))]
    forced = FORCED | {"tool_choice": {"type": "any"}}
    async with tool_child(open_child, jsonSchema=SCHEMA) as cli:
        await cli.send(extra_body(cli, forced))
        frames = await tool_turn(cli, "hi", [tool("t")], lambda _: texts("ok"))
    assert frames[-1]["structured_output"] == {"a": 1}
    assert [request.tools for request in stub.requests] == [["t", "StructuredOutput"]] * 2
    assert [request.body["tool_choice"] for request in stub.requests] == [{"type": "any"}] * 2


async def test_a_clients_tool_of_the_same_name_stands_beside_it_and_is_called_instead(
    open_child: OpenChild, stub: MessagesStub
) -> None:
    stub.queue.append(call(output(a=1)))
    async with tool_child(open_child, jsonSchema=SCHEMA) as cli:
        frames = await tool_turn(cli, "hi", [tool("StructuredOutput")], lambda _: texts("ok"))
    assert stub.requests[0].tools == ["StructuredOutput"] * 2
    assert any(is_mcp(frame, "tools/call") for frame in frames)


@pytest.mark.parametrize(
    "schema",
    [
        {},
        {"$schema": "http://json-schema.org/draft-07/schema#", "type": "object"},
        {"anyOf": [SCHEMA, {"type": "object", "required": ["b"]}]},
        {"$ref": "#/$defs/m", "$defs": {"m": {"type": "object"}}},
        {"type": "object", "properties": {"a": {"type": ["string", "null"], "format": "odd"}}},
        {"type": "object", "title": "T", "properties": {"a": {"default": None, "examples": [1]}}},
        {"type": "array", "items": {"type": "integer"}},  # and yet no output can ever fit it
    ],
    ids=json.dumps,
)
async def test_the_tool_is_offered_for(
    schema: Any, open_child: OpenChild, stub: MessagesStub
) -> None:
    assert (await schema_turn(open_child, schema, {}))[1] == ["StructuredOutput"]
    assert stub.requests[0].tools == ["StructuredOutput"]


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "nonsense"},
        {"$schema": "https://json-schema.org/draft/2020-12/schema", "type": "object"},
        {"type": "object", "x-own": 1},
        {"type": "object", "discriminator": {"propertyName": "a"}},
        {"type": "object", "properties": {"a": {"enum": ["a", "a"]}}},
        {"type": "object", "properties": {"a": {"$ref": "https://example.invalid/x"}}},
        {"type": "object", "properties": {"a": {"pattern": "^(?P<x>a)$"}}},
        {"type": "object", "unevaluatedProperties": False},
    ],
    ids=json.dumps,
)
async def test_the_tool_is_silently_not_offered_for(
    schema: Any, open_child: OpenChild, stub: MessagesStub
) -> None:
    """system/init tells before the request is made; nothing else does."""
    frames, tools = await schema_turn(open_child, schema, {})
    assert tools == []
    assert stub.requests[0].tools == []
    assert frames[-1]["is_error"] is False
