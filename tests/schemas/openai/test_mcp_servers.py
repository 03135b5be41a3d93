"""MCP servers that a request names, and the items about their tools: how they are read and written,
and how an approval finds its call."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ccapi.schemas.errors import InvalidRequest
from ccapi.schemas.mcp_tools import ServerTool
from ccapi.schemas.message import (
    Approval,
    Message,
    ToolCall,
    ToolForm,
    ToolResult,
    ToolRound,
    digest,
)
from ccapi.schemas.openai.items import UNTOLD, denial
from ccapi.schemas.openai.mcp_servers import McpServer
from ccapi.schemas.openai.output_items import asked_call, encode_messages
from ccapi.schemas.openai.response_events import Ending, ResponseHeading, ResponseWriter
from ccapi.schemas.openai.responses import ResponseTurn, parse_response
from ccapi.schemas.turn import Setup, Tool, TurnRequest, Usage
from ccapi.schemas.turn_items import (
    ActivityDelta,
    ActivityEnded,
    ActivityStarted,
    ListedTool,
    TextDelta,
    ToolCallDelta,
    ToolCallStarted,
    ToolsListed,
    TurnItem,
)

from ...support.responses import Event, check_item, events, kinds, tool, user, whole_stream

TURN = "0e8dbd39-f99c-49ed-af4a-a6b7d1a73ad6"
HEX = TURN.replace("-", "")
ASKED_ID = f"mcpr_{HEX}_toolu_1"
HI = user("Hi")
SAID = {"type": "message", "id": "msg_1", "role": "assistant", "content": "Yes."}
A = {"type": "mcp", "server_label": "a"}
URL = {**A, "server_url": "https://mcp.example/x?key=hidden"}
ASKED = {
    "type": "mcp_approval_request",
    "id": ASKED_ID,
    "server_label": "a",
    "name": "write",
    "arguments": '{"n":1}',
}
FORM = ToolForm("write", server="a")
CALL = ToolCall("toolu_1", "mcp__a__write", '{"n":1}', form=FORM)


def approved(**fields: Any) -> dict[str, Any]:
    answer = {"type": "mcp_approval_response", "approval_request_id": ASKED_ID, "approve": True}
    return {**answer, **fields}


def parse(*items: Any, **fields: Any) -> ResponseTurn:
    return parse_response({"input": [*(items or (HI,))], **fields})


def error_of(*items: Any, **fields: Any) -> tuple[str, str | None]:
    with pytest.raises(InvalidRequest) as caught:
        parse(*items, **fields)
    assert "hidden" not in str(caught.value)
    return caught.value.code, caught.value.param


def server(**fields: Any) -> McpServer:
    [found] = parse(tools=[{**A, **fields}]).servers
    return found


def offered(name: str, *, read_only: bool = False) -> ServerTool:
    return ServerTool("a", name, f"mcp__a__{name}", "", "{}", read_only)


# -- which are named -------------------------------------------------------------------------------


def test_a_server_of_the_operators_needs_its_label_alone() -> None:
    turn = parse(tools=[A, tool("f")])
    assert turn.servers == (McpServer(path="tools[0]", label="a"),)
    assert turn.tools is not None
    assert [each.name for each in turn.tools] == ["f"]
    assert turn.ignored == ()
    assert parse().servers == ()


def test_tools_are_allowed_by_name_and_by_nature() -> None:
    by_name = server(allowed_tools=["echo"])
    assert by_name.allowed.passes(offered("echo"))
    assert not by_name.allowed.passes(offered("write"))
    assert by_name.named_tools == {"echo": "tools[0].allowed_tools[0]"}
    by_nature = server(allowed_tools={"read_only": True})
    assert by_nature.allowed.passes(offered("echo", read_only=True))
    assert not by_nature.allowed.passes(offered("echo"))
    assert server(allowed_tools={"tool_names": ["x"]}).named_tools == {
        "x": "tools[0].allowed_tools.tool_names[0]"
    }


def test_who_approves_what() -> None:
    echo, write = offered("echo", read_only=True), offered("write")
    assert server().wish(echo) is None
    assert server(require_approval="always").wish(echo) == "always"
    assert server(require_approval="never").wish(write) == "never"
    some = server(require_approval={"never": {"tool_names": ["echo"]}})
    assert (some.wish(echo), some.wish(write)) == ("never", None)
    both = server(
        require_approval={"always": {"tool_names": ["write"]}, "never": {"read_only": True}}
    )
    assert (both.wish(echo), both.wish(write)) == ("never", "always")
    assert both.named_tools == {"write": "tools[0].require_approval.always.tool_names[0]"}


def test_headers_go_with_a_url_and_are_not_shown() -> None:
    [found] = parse(
        tools=[{**URL, "headers": {"X-Key": "hidden"}, "authorization": "hidden"}]
    ).servers
    assert found.url == URL["server_url"]
    assert found.headers == {"x-key": "hidden", "authorization": "Bearer hidden"}
    assert "hidden" not in repr(found)


def test_a_response_repeats_no_secrets() -> None:
    turn = parse(
        tools=[{
            **URL, "headers": {"x-key": "hidden"}, "authorization": "hidden",
            "allowed_tools": ["echo"], "require_approval": {"never": {"tool_names": ["echo"]}},
        }]
    )  # fmt: skip
    [echo] = turn.echo["tools"]
    assert "hidden" not in json.dumps(echo)
    assert echo["server_url"] == "https://mcp.example/<redacted>"
    assert (echo["server_label"], list(echo["allowed_tools"])) == ("a", ["echo"])
    assert "hidden" not in repr(turn)


@pytest.mark.parametrize(
    ("fields", "code", "param"),
    [
        ({"server_label": None}, "missing_field", "tools[0].server_label"),
        ({"server_label": "a b"}, "invalid_value", "tools[0].server_label"),
        ({"connector_id": "connector_gmail"}, "unsupported_parameter", "tools[0].connector_id"),
        ({"tunnel_id": "t"}, "unsupported_parameter", "tools[0].tunnel_id"),
        ({"require_approval": "sometimes"}, "invalid_value", "tools[0].require_approval"),
        ({"require_approval": {"never": {"tool_names": "x"}}}, "invalid_type",
         "tools[0].require_approval.never.tool_names"),
        ({"allowed_tools": "x"}, "invalid_type", "tools[0].allowed_tools"),
        ({"headers": {"x": "hidden"}}, "invalid_value", "tools[0].headers"),
        ({"authorization": "hidden"}, "invalid_value", "tools[0].authorization"),
        ({**URL, "headers": {"x": "hidden\r\ny: z"}}, "invalid_value", "tools[0].headers.x"),
        ({**URL, "headers": {"x\n": "hidden"}}, "invalid_value", "tools[0].headers"),
        ({**URL, "authorization": "hidden\n"}, "invalid_value", "tools[0].authorization"),
        ({**URL, "headers": {"Authorization": "hidden"}, "authorization": "hidden"},
         "invalid_value", "tools[0].authorization"),
        ({**URL, "headers": {str(n): "" for n in range(65)}}, "invalid_value", "tools[0].headers"),
    ],
)  # fmt: skip
def test_what_is_refused(fields: dict[str, Any], code: str, param: str) -> None:
    assert error_of(tools=[{**A, **fields}]) == (code, param)


def test_a_label_names_one_server() -> None:
    assert error_of(tools=[A, A]) == ("invalid_value", "tools[1].server_label")


def test_a_choice_among_servers() -> None:
    b = {**A, "server_label": "b"}
    wishes = [{**A, "name": "echo"}, {"type": "function", "name": "f"}]
    allowed = {"type": "allowed_tools", "mode": "auto", "tools": wishes}
    turn = parse(tools=[A, b, tool("f"), tool("g")], tool_choice=allowed)
    [found] = turn.servers
    assert (found.label, found.allowed.tool_names) == ("a", ("echo",))
    assert [each.name for each in turn.tools or ()] == ["f"]
    named = parse(tools=[A], tool_choice={**A, "name": "echo"})
    assert named.options.tool_choice.name == "mcp__a__echo"
    assert named.echo["tool_choice"] == {**A, "name": "echo"}
    assert parse(tools=[A], tool_choice="required").options.tool_choice.mode == "required"


# -- what a history says ---------------------------------------------------------------------------


def test_a_request_for_approval_is_a_call_and_the_answer_its_result() -> None:
    turn = parse(HI, ASKED, approved(reason="do"))
    _, call, result = turn.messages
    assert call == Message("assistant", (CALL,))
    assert call.calls[0].form == FORM
    assert result.results[0] == ToolResult("toolu_1", ())
    assert result.results[0].approval == Approval(ASKED_ID, True, "do")
    assert turn.approvals == {ASKED_ID: "input[2]"}


def test_what_is_not_approved_is_said_to_the_model() -> None:
    turn = parse(HI, ASKED, approved(approve=False, reason="too late"))
    assert turn.messages[-1].results == (ToolResult("toolu_1", (denial("too late"),), True),)
    assert turn.approvals == {}


def test_a_history_that_says_what_came_of_a_call_has_it_approved_no_more() -> None:
    made = {
        "type": "mcp_call", "id": f"mcp_{HEX}_toolu_1", "server_label": "a", "name": "write",
        "arguments": '{"n":1}', "output": "written", "approval_request_id": ASKED_ID,
    }  # fmt: skip
    turn = parse(HI, ASKED, approved(), made, SAID, user("And?"))
    assert turn.messages[2].results == (ToolResult("toolu_1", ("written",)),)
    assert turn.approvals == {}
    failed = {**made, "output": "no", "error": {"type": "x", "content": "no"}}
    turn = parse(HI, ASKED, approved(), failed, SAID, user("And?"))
    assert turn.messages[2].results == (ToolResult("toolu_1", ("no",), True),)
    untold = parse(HI, ASKED, approved(), SAID, user("And?"))
    assert untold.messages[2].results == (ToolResult("toolu_1", (UNTOLD,)),)
    assert untold.approvals == {}


def test_what_the_gateway_did_by_itself_is_no_part_of_what_was_said() -> None:
    did = {
        "type": "mcp_call", "id": f"mcp_{HEX}_1", "server_label": "a", "name": "echo",
        "arguments": '{"text":"x"}', "output": "x again", "error": None,
    }  # fmt: skip
    turn = parse(HI, SAID, did, {**SAID, "content": "\n\nSo."}, user("And?"))
    answer = turn.messages[1]
    assert digest(answer) == digest(Message("assistant", ("Yes.\n\nSo.",)))
    call = ToolCall(f"mcp_{HEX}_1", "mcp__a__echo", '{"text":"x"}')
    assert answer.rounds == (ToolRound((call,), (ToolResult(call.id, ("x again",)),)),)
    assert turn.ignored == ()


def test_another_providers_approvals_are_left_out() -> None:
    turn = parse(HI, {**ASKED, "id": "mcpr_1"}, approved(approval_request_id="mcpr_1"), SAID, HI)
    assert len(turn.messages) == 3
    assert turn.ignored == ("input.mcp_approval_request", "input.mcp_approval_response")


def test_a_list_of_tools_is_not_made_again() -> None:
    listed = {"type": "mcp_list_tools", "id": "mcpl_1", "server_label": "a", "tools": []}
    assert parse(listed, HI).listed == ("a",)


@pytest.mark.parametrize(
    ("item", "code", "param"),
    [
        (approved(approval_request_id="mcpr_2"), "approval_request_not_found",
         "input[2].approval_request_id"),
        (approved(approval_request_id=None), "missing_field", "input[2].approval_request_id"),
        (approved(approve=None), "missing_field", "input[2].approve"),
        (approved(approve="yes"), "invalid_type", "input[2].approve"),
    ],
)  # fmt: skip
def test_answers_that_are_none(item: Any, code: str, param: str) -> None:
    assert error_of(HI, ASKED, item) == (code, param)


def test_a_request_for_approval_is_answered_once() -> None:
    assert error_of(HI, ASKED, approved(), approved()) == (
        "duplicate_item", "input[3].approval_request_id",
    )  # fmt: skip


# -- how they are written --------------------------------------------------------------------------


def stream(*items: TurnItem) -> list[Event]:
    writer = ResponseWriter(ResponseHeading(TURN, 1, "m", "c", False, parse().echo))
    told = writer.first()
    for item in items:
        told += writer.item(item)
    told += writer.last(Ending("completed", 2, Usage()))
    found = events(b"".join(told))
    for item in whole_stream(found)["output"]:
        check_item(item)
    return found


def test_a_list_of_tools() -> None:
    echo = ListedTool("echo", "Says it.", '{"type":"object"}', True)
    found = stream(ToolsListed("a", (echo,)), TextDelta("Hi"))
    assert kinds(found)[2:6] == [
        "output_item.added", "mcp_list_tools.in_progress", "mcp_list_tools.completed",
        "output_item.done",
    ]  # fmt: skip
    listed, said = found[-1]["response"]["output"]
    assert listed == {
        "id": f"mcpl_{HEX}_a", "type": "mcp_list_tools", "server_label": "a", "error": None,
        "tools": [{
            "name": "echo", "description": "Says it.", "input_schema": {"type": "object"},
            "annotations": {"readOnlyHint": True},
        }],
    }  # fmt: skip
    # The turn's items have the same ids where what stands before them is not written.
    assert said["id"] == f"msg_{HEX}_0"


def test_a_list_that_there_is_not() -> None:
    found = stream(ToolsListed("a", error="It is not ready."))
    assert "mcp_list_tools.failed" in kinds(found)
    assert found[-1]["response"]["output"][0]["error"] == "It is not ready."


def test_a_call_of_a_servers_tool_names_the_server() -> None:
    started = ActivityStarted("toolu_1", "mcp__a__echo", ToolForm("echo", server="a"))
    found = stream(
        started, ActivityDelta("toolu_1", "{}"), ActivityEnded("toolu_1", "x"), TextDelta("Hi")
    )
    called, said = found[-1]["response"]["output"]
    assert (called["server_label"], called["name"]) == ("a", "echo")
    assert (called["id"], said["id"]) == (f"mcp_{HEX}_0", f"msg_{HEX}_1")
    assert called["approval_request_id"] is None


def test_a_call_that_was_approved_stands_before_the_turn() -> None:
    started = ActivityStarted("toolu_1", "mcp__a__write", FORM, approval="mcpr_x")
    found = stream(
        started, ActivityDelta("toolu_1", "{}"), ActivityEnded("toolu_1", "no", True),
        TextDelta("Hi"),
    )  # fmt: skip
    called, said = found[-1]["response"]["output"]
    assert (called["approval_request_id"], called["status"]) == ("mcpr_x", "failed")
    assert (called["id"], said["id"]) == (f"mcp_{HEX}_toolu_1", f"msg_{HEX}_0")


def test_a_call_that_waits_for_approval() -> None:
    started = ToolCallStarted(0, "toolu_1", "mcp__a__write", FORM)
    found = stream(started, ToolCallDelta(0, '{"n":'), ToolCallDelta(0, "1}"))
    assert kinds(found)[2:4] == ["output_item.added", "output_item.done"]
    assert found[-1]["response"]["output"] == [ASKED]
    assert asked_call(ASKED_ID) == "toolu_1"
    assert asked_call("mcpr_toolu_1") is None


def test_what_was_asked_is_written_as_it_was() -> None:
    said = (ToolResult("toolu_1", ("written",), approval=Approval(ASKED_ID, True)),)
    asked, answer = encode_messages((Message("assistant", (CALL,)), Message("user", said)), TURN)
    check_item(asked)
    check_item(answer)
    assert asked == ASKED
    assert answer["type"] == "mcp_approval_response"
    assert (answer["approval_request_id"], answer["approve"]) == (ASKED_ID, True)


def test_no_other_dialect_is_asked_for_approval() -> None:
    """Though the conversation has such tools."""
    held = Setup("m", tools=(Tool("f"), Tool("mcp__a__write", form=FORM)))
    assert [each.name for each in TurnRequest().setup(held).tools] == ["f"]
    assert TurnRequest(asks_approval=True).setup(held).tools == held.tools
