"""The client's tools in a child: each call is answered once, whichever comes first."""

import json
from typing import Any

from ccapi.actors.session.tools import HostedCall, ToolCalls
from ccapi.schemas.claude.lines import Line
from ccapi.schemas.claude.output import ControlAsked
from ccapi.schemas.message import ToolResult
from ccapi.schemas.turn import Setup, Tool

SETUP = Setup("m", tools=(Tool("now"), Tool("weather")))


def asked(request_id: str, method: str, json_id: int, **params: Any) -> ControlAsked:
    message = {"jsonrpc": "2.0", "id": json_id, "method": method, "params": params}
    return ControlAsked(request_id, "mcp_message", message)


def call(call_id: str, json_id: int) -> ControlAsked:
    meta = {"claudecode/toolUseId": call_id, "progressToken": json_id}
    params = {"name": "now", "arguments": {}, "_meta": meta}
    return asked(f"request {json_id}", "tools/call", json_id, **params)


def result(call_id: str, text: str) -> ToolResult:
    return ToolResult(call_id, (text,))


def told(lines: list[Line] | HostedCall) -> list[tuple[str, int, str, bool]]:
    """Request id, JSON-RPC id, text, and whether it is an error, of each answer."""
    assert not isinstance(lines, HostedCall)
    answers = []
    for line in lines:
        response = json.loads(bytes(line))["response"]
        message = response["response"]["mcp_response"]
        (block,) = message["result"]["content"]
        failed = message["result"].get("isError", False)
        answers.append((response["request_id"], message["id"], block["text"], failed))
    return answers


def test_what_is_no_call_is_answered_at_once() -> None:
    tool_calls = ToolCalls(SETUP)
    lines = tool_calls.serve(asked("r", "tools/list", 1))
    assert isinstance(lines, list)
    (line,) = lines
    response = json.loads(bytes(line))["response"]
    assert response["request_id"] == "r"
    tools = response["response"]["mcp_response"]["result"]["tools"]
    assert [tool["name"] for tool in tools] == ["now", "weather"]
    assert repr(tool_calls) == "<ToolCalls open=[]>"


def test_asked_before_given() -> None:
    tool_calls = ToolCalls(SETUP)
    assert tool_calls.serve(call("t", 2)) == []
    assert repr(tool_calls) == "<ToolCalls open=['t']>"
    assert told(tool_calls.give([result("t", "noon")])) == [("request 2", 2, "noon", False)]
    assert repr(tool_calls) == "<ToolCalls open=[]>"


def test_given_before_asked() -> None:
    tool_calls = ToolCalls(SETUP)
    assert tool_calls.give([result("t", "noon")]) == []
    assert told(tool_calls.serve(call("t", 2))) == [("request 2", 2, "noon", False)]


def test_answers_come_in_the_order_of_the_calls() -> None:
    """So the model is given them, whether the CLI puts them in that of the calls or of the answers:
    and so is a child that receives them."""
    tool_calls = ToolCalls(SETUP)
    for number, call_id in enumerate("abc"):
        assert tool_calls.serve(call(call_id, number)) == []
    answers = told(tool_calls.give([result("c", "3"), result("a", "1"), result("b", "2")]))
    assert [text for _, _, text, _ in answers] == ["1", "2", "3"]


def test_a_call_is_answered_once() -> None:
    tool_calls = ToolCalls(SETUP)
    tool_calls.serve(call("t", 2))
    assert len(tool_calls.give([result("t", "noon")])) == 1
    assert tool_calls.serve(call("t", 3)) == []  # another one: there is no result for it yet
    assert told(tool_calls.give([result("t", "one")])) == [("request 3", 3, "one", False)]


def test_what_is_given_for_one_call_answers_no_other() -> None:
    tool_calls = ToolCalls(SETUP)
    tool_calls.serve(call("t", 2))
    assert tool_calls.give([result("u", "noon")]) == []
    assert repr(tool_calls) == "<ToolCalls open=['t']>"


def test_a_rejected_call_gives_the_model_the_reason() -> None:
    tool_calls = ToolCalls(SETUP)
    assert tool_calls.reject("t", "no") == []
    assert told(tool_calls.serve(call("t", 2))) == [("request 2", 2, "no", True)]
    tool_calls.serve(call("u", 3))
    assert told(tool_calls.reject("u", "no")) == [("request 3", 3, "no", True)]


def test_one_call_is_rejected_and_another_waits() -> None:
    tool_calls = ToolCalls(SETUP)
    tool_calls.serve(call("t", 2))
    tool_calls.serve(call("u", 3))
    assert told(tool_calls.reject("t", "no")) == [("request 2", 2, "no", True)]
    assert told(tool_calls.give([result("u", "noon")])) == [("request 3", 3, "noon", False)]


def test_what_is_forgotten_is_never_answered() -> None:
    tool_calls = ToolCalls(SETUP)
    tool_calls.serve(call("t", 2))
    tool_calls.give([result("u", "noon")])
    tool_calls.forget()
    assert tool_calls.give([result("t", "late")]) == []
    assert tool_calls.serve(call("u", 3)) == []
    assert repr(tool_calls) == "<ToolCalls open=['u']>"
