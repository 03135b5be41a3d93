"""The client's tools in a child: each call is answered once, whoever comes first."""

import json
from typing import Any

from ccapi.actors.session.tools import ToolCalls
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


def told(lines: list[bytes]) -> list[tuple[str, int, str, bool]]:
    """Request id, JSON-RPC id, text, and whether it is an error, of each answer."""
    answers = []
    for line in lines:
        response = json.loads(line)["response"]
        message = response["response"]["mcp_response"]
        (block,) = message["result"]["content"]
        failed = message["result"].get("isError", False)
        answers.append((response["request_id"], message["id"], block["text"], failed))
    return answers


def test_what_is_no_call_is_answered_at_once() -> None:
    desk = ToolCalls(SETUP)
    (line,) = desk.serve(asked("r", "tools/list", 1))
    response = json.loads(line)["response"]
    assert response["request_id"] == "r"
    tools = response["response"]["mcp_response"]["result"]["tools"]
    assert [tool["name"] for tool in tools] == ["now", "weather"]
    assert repr(desk) == "<ToolCalls open=[]>"


def test_asked_before_given() -> None:
    desk = ToolCalls(SETUP)
    assert desk.serve(call("t", 2)) == []
    assert repr(desk) == "<ToolCalls open=['t']>"
    assert told(desk.give([result("t", "noon")])) == [("request 2", 2, "noon", False)]
    assert repr(desk) == "<ToolCalls open=[]>"


def test_given_before_asked() -> None:
    desk = ToolCalls(SETUP)
    assert desk.give([result("t", "noon")]) == []
    assert told(desk.serve(call("t", 2))) == [("request 2", 2, "noon", False)]


def test_answers_come_in_the_order_of_the_results() -> None:
    """So the model is given them, whatever the child asked first."""
    desk = ToolCalls(SETUP)
    for number, call_id in enumerate("abc"):
        assert desk.serve(call(call_id, number)) == []
    answers = told(desk.give([result("c", "3"), result("a", "1"), result("b", "2")]))
    assert [text for _, _, text, _ in answers] == ["3", "1", "2"]


def test_a_call_is_answered_once() -> None:
    desk = ToolCalls(SETUP)
    desk.serve(call("t", 2))
    assert len(desk.give([result("t", "noon")])) == 1
    assert desk.serve(call("t", 3)) == []  # another one: there is no result for it yet
    assert told(desk.give([result("t", "one")])) == [("request 3", 3, "one", False)]


def test_what_is_given_for_one_call_answers_no_other() -> None:
    desk = ToolCalls(SETUP)
    desk.serve(call("t", 2))
    assert desk.give([result("u", "noon")]) == []
    assert repr(desk) == "<ToolCalls open=['t']>"


def test_a_rejected_call_tells_the_model_why() -> None:
    desk = ToolCalls(SETUP)
    assert desk.reject("t", "no") == []
    assert told(desk.serve(call("t", 2))) == [("request 2", 2, "no", True)]
    desk.serve(call("u", 3))
    assert told(desk.reject("u", "no")) == [("request 3", 3, "no", True)]


def test_one_call_is_rejected_and_another_waits() -> None:
    desk = ToolCalls(SETUP)
    desk.serve(call("t", 2))
    desk.serve(call("u", 3))
    assert told(desk.reject("t", "no")) == [("request 2", 2, "no", True)]
    assert told(desk.give([result("u", "noon")])) == [("request 3", 3, "noon", False)]


def test_what_is_forgotten_is_never_answered() -> None:
    desk = ToolCalls(SETUP)
    desk.serve(call("t", 2))
    desk.give([result("u", "noon")])
    desk.forget()
    assert desk.give([result("t", "late")]) == []
    assert desk.serve(call("u", 3)) == []
    assert repr(desk) == "<ToolCalls open=['u']>"
