"""The MCP server of the client's tools, message by message. What the CLI asks is as it was printed
by the real one, 2.1.330; tests/contract/test_tools.py shows what it needs in the answers."""

from typing import Any

import pytest

from ccapi.schemas.claude import mcp
from ccapi.schemas.claude.mcp import MAX_RESULT_CHARACTERS, CallAsked, carries, offered, serve
from ccapi.schemas.claude.tool_names import ANSWER_TOOL
from ccapi.schemas.message import Document, Image, ToolResult
from ccapi.schemas.turn import Setup, Tool

PNG = Image("image/png", "iVBORw0=")
WEATHER = Tool("get weather", "Tells it.", '{"type":"object","properties":{"city":{"x-y":1}}}')
TOOLS = offered(Setup("m", tools=(WEATHER, Tool("now"))))


def asked(method: str, id: int | None = 1, **params: Any) -> dict[str, Any]:
    message: dict[str, Any] = {"method": method, "jsonrpc": "2.0", "params": params}
    return message if id is None else {**message, "id": id}


# -- what is offered -------------------------------------------------------------------------------


def test_tools_are_offered_by_the_names_the_model_receives() -> None:
    assert {"get_weather_dce3870e": WEATHER, "now": Tool("now")} == TOOLS
    assert offered(Setup("m")) == {}


def test_an_answer_that_has_to_suit_a_schema_is_a_tool_too() -> None:
    tools = offered(Setup("m", tools=(Tool("now"),), schema='{"type":"object"}'))
    assert list(tools) == ["now", ANSWER_TOOL]
    assert tools[ANSWER_TOOL].parameters == '{"type":"object"}'
    assert not tools[ANSWER_TOOL].strict


def test_a_tool_may_have_the_name_of_the_answer_tool() -> None:
    clients = Tool(ANSWER_TOOL, "the client's")
    tools = offered(Setup("m", tools=(clients,), schema="{}"))
    assert len(tools) == 2
    assert tools[ANSWER_TOOL] is not clients


# -- the handshake ---------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["2025-06-18", "2025-11-25"])
def test_initialize(version: str) -> None:
    """Were any of these missing, there would be no tools, and no error either. A version that the
    CLI does not know would be refused: it receives its own."""
    message = asked("initialize", 0, protocolVersion=version, capabilities={}, clientInfo={})
    assert serve(message, TOOLS) == {
        "jsonrpc": "2.0",
        "id": 0,
        "result": {
            "protocolVersion": version,
            "capabilities": {"tools": {}},
            "serverInfo": {"name": "client", "version": "1"},
        },
    }


def test_notifications_are_taken_note_of() -> None:
    expected = {"jsonrpc": "2.0", "result": {}}
    assert serve(asked("notifications/initialized", None), TOOLS) == expected
    assert serve(asked("notifications/cancelled", None, requestId=2), TOOLS) == expected


def test_ping() -> None:
    assert serve(asked("ping", 9), TOOLS) == {"jsonrpc": "2.0", "id": 9, "result": {}}


@pytest.mark.parametrize("method", ["resources/list", "prompts/list", None, 7])
def test_a_server_of_tools_has_nothing_else(method: Any) -> None:
    answer = serve({"jsonrpc": "2.0", "id": 3, "method": method}, TOOLS)
    assert isinstance(answer, dict)
    assert (answer["id"], answer["error"]["code"]) == (3, -32601)


@pytest.mark.parametrize(
    "message", [{}, {"method": "initialize", "params": None}, {"method": "tools/call", "params": 7}]
)
def test_any_message_has_an_answer(message: dict[str, Any]) -> None:
    assert isinstance(serve(message, TOOLS), dict)


# -- the list --------------------------------------------------------------------------------------


def schemas(*parameters: str) -> list[Any]:
    tools = {f"t{n}": Tool("t", "", each) for n, each in enumerate(parameters)}
    answer = serve({"method": "tools/list", "jsonrpc": "2.0", "id": 1}, tools)
    assert isinstance(answer, dict)
    return [tool["inputSchema"] for tool in answer["result"]["tools"]]


def test_tools_list() -> None:
    answer = serve({"method": "tools/list", "jsonrpc": "2.0", "id": 1}, TOOLS)
    assert isinstance(answer, dict)
    assert answer["result"]["tools"][0] == {
        "name": "get_weather_dce3870e",
        "description": "Tells it.",
        "inputSchema": {"type": "object", "properties": {"city": {"x-y": 1}}},
        "annotations": {"readOnlyHint": True},
        "_meta": {"anthropic/maxResultSizeChars": 500_000},
    }
    assert [tool["name"] for tool in answer["result"]["tools"]] == list(TOOLS)


@pytest.mark.parametrize(
    "schema", ["{}", "true", "[]", "null", '{"type":"string"}', '{"type":["object"]}']
)
def test_every_tool_takes_an_object(schema: str) -> None:
    """One that does not, and the CLI has none of them."""
    assert schemas(schema) == [{"type": "object"}]


def test_a_schema_is_sent_as_it_is() -> None:
    rich = '{"$schema":"x","x-y":[{}],"type":"object","$defs":{"a":{}}}'
    assert schemas(rich) == [{"$schema": "x", "x-y": [{}], "type": "object", "$defs": {"a": {}}}]
    assert list(schemas(rich)[0]) == ["$schema", "x-y", "type", "$defs"]


def test_what_the_api_takes_only_further_down_is_written_in_words() -> None:
    tool = Tool("t", "Does it.", '{"anyOf":[{"properties":{"a":{}}},{"properties":{"b":{}}}]}')
    answer = serve(asked("tools/list"), {"t": tool})
    assert isinstance(answer, dict)
    (told,) = answer["result"]["tools"]
    assert told["inputSchema"] == {"type": "object", "properties": {"a": {}, "b": {}}}
    assert told["description"].startswith("Does it.\n\nThe input must also suit")


# -- calls -----------------------------------------------------------------------------------------

CALL = asked(
    "tools/call",
    2,
    name="now",
    arguments={},
    _meta={"claudecode/toolUseId": "toolu_A", "progressToken": 2},
)


def test_a_call_is_answered_later() -> None:
    assert serve(CALL, TOOLS) == CallAsked(2, "toolu_A", "now")


@pytest.mark.parametrize("meta", [None, {}, [], {"claudecode/toolUseId": 7}])
def test_a_call_that_no_client_could_answer_is_refused(meta: Any) -> None:
    answer = serve(asked("tools/call", 2, name="now", _meta=meta), TOOLS)
    assert isinstance(answer, dict)
    assert (answer["id"], answer["error"]["code"]) == (2, -32602)


def test_a_result() -> None:
    given = ToolResult("toolu_A", ("a", " b\n", PNG))
    assert mcp.result(CallAsked(2, "toolu_A"), given) == {
        "jsonrpc": "2.0",
        "id": 2,
        "result": {
            "content": [
                {"type": "text", "text": "a"},
                {"type": "text", "text": " b\n"},
                {"type": "image", "data": "iVBORw0=", "mimeType": "image/png"},
            ]
        },
    }


def test_a_failure() -> None:
    assert mcp.failure(CallAsked(2, "toolu_A"), "no") == {
        "jsonrpc": "2.0",
        "id": 2,
        "result": {"content": [{"type": "text", "text": "no"}], "isError": True},
    }


HALF = "x" * (MAX_RESULT_CHARACTERS // 2)


@pytest.mark.parametrize(
    ("content", "possible"),
    [
        (("sunny",), True),
        (("sunny", "", " "), True),
        (("sunny", PNG), True),
        ((HALF, HALF), True),
        ((HALF, HALF, "x"), False),  # the model would see the name of a file
        (("\U0001f600" * (MAX_RESULT_CHARACTERS // 2 + 1),), False),  # JavaScript counts two each
        ((), False),  # the CLI would put its own words there
        (("", " \n"), False),
        ((PNG,), False),
        (("a", Document("application/pdf", "AAAA")), False),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_what_can_be_said_through_it(content: tuple[Any, ...], *, possible: bool) -> None:
    assert carries(ToolResult("t", content)) is possible
    assert not carries(ToolResult("t", content, is_error=True))
