"""The lines that are said to the CLI, byte by byte."""

import base64
import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ccapi.schemas.claude import input as lines
from ccapi.schemas.message import (
    Block,
    Document,
    Image,
    RedactedThinking,
    Thinking,
    ToolCall,
    ToolResult,
)
from ccapi.schemas.turn import Setup, Tool

PNG = Image("image/png", "iVBORw0=")
PDF = Document("application/pdf", "JVBERi0=", "report.pdf")

# -- control -------------------------------------------------------------------------------------


def test_initialize() -> None:
    said = lines.initialize("initialize", Setup("haiku", "Be brief."))
    assert said == (
        b'{"type":"control_request","request_id":"initialize","request":{"subtype":"initialize",'
        b'"systemPrompt":["Be brief."],"agents":{"gw":{"description":"gw","prompt":"Be brief.",'
        b'"model":"haiku"}},"systemPromptSnapshot":false}}\n'
    )


def test_initialize_without_a_system_prompt() -> None:
    """An empty list is the only way to have none: "" falls back to the agent's prompt."""
    request = json.loads(bytes(lines.initialize("r", Setup("haiku"))))["request"]
    assert request["systemPrompt"] == []
    assert request["agents"]["gw"] == {"description": "gw", "prompt": "", "model": "haiku"}


@pytest.mark.parametrize("setup", [Setup("m", tools=(Tool("t"),)), Setup("m", schema="{}")])
def test_initialize_names_the_tool_server_where_there_are_tools(setup: Setup) -> None:
    request = json.loads(bytes(lines.initialize("r", setup)))["request"]
    assert request["sdkMcpServers"] == ["client0"]
    assert "sdkMcpServers" not in json.loads(bytes(lines.initialize("r", Setup("m"))))["request"]


def test_claim_session() -> None:
    assert lines.claim_session("claim", "/w/a") == (
        b'{"type":"control_request","request_id":"claim","request":{"subtype":"claim_session",'
        b'"cwd":"/w/a"}}\n'
    )


def test_set_model() -> None:
    assert lines.set_model("r", "haiku") == (
        b'{"type":"control_request","request_id":"r","request":{"subtype":"set_model",'
        b'"model":"haiku"}}\n'
    )


def test_allow_tools() -> None:
    assert lines.allow_tools("r", ("Bash(touch *)", "Read")) == (
        b'{"type":"control_request","request_id":"r","request":{"subtype":"apply_flag_settings",'
        b'"settings":{"permissions":{"allow":["Bash(touch *)","Read"]}}}}\n'
    )


def test_apply_settings() -> None:
    said = lines.apply_settings("settings", {"env": {"A": "1"}, "effortLevel": None})
    assert said == (
        b'{"type":"control_request","request_id":"settings","request":{"subtype":'
        b'"apply_flag_settings","settings":{"env":{"A":"1"},"effortLevel":null}}}\n'
    )


def test_show_thinking() -> None:
    assert lines.show_thinking("settings") == (
        b'{"type":"control_request","request_id":"settings","request":{"subtype":'
        b'"set_max_thinking_tokens","max_thinking_tokens":null,"thinking_display":"summarized"}}\n'
    )


def test_answer_mcp() -> None:
    assert lines.answer_mcp("r1", {"jsonrpc": "2.0", "id": 0, "result": {}}) == (
        b'{"type":"control_response","response":{"subtype":"success","request_id":"r1",'
        b'"response":{"mcp_response":{"jsonrpc":"2.0","id":0,"result":{}}}}}\n'
    )


def test_rewind() -> None:
    assert lines.rewind("r1", "u1") == (
        b'{"type":"control_request","request_id":"r1","request":{"subtype":"rewind_conversation",'
        b'"target_message_uuid":"u1","interrupt_if_running":true}}\n'
    )


def test_interrupt() -> None:
    assert lines.interrupt("r1") == (
        b'{"type":"control_request","request_id":"r1","request":{"subtype":"interrupt"}}\n'
    )


def test_allow() -> None:
    assert lines.allow("r1", {"command": "ls"}) == (
        b'{"type":"control_response","response":{"subtype":"success","request_id":"r1",'
        b'"response":{"behavior":"allow","updatedInput":{"command":"ls"}}}}\n'
    )


def test_allow_from_now_on() -> None:
    rule = {"type": "addRules", "rules": [{"toolName": "Bash"}], "behavior": "allow"}
    body = json.loads(bytes(lines.allow("r1", {}, [rule])))["response"]["response"]
    assert body == {"behavior": "allow", "updatedInput": {}, "updatedPermissions": [rule]}


def test_deny() -> None:
    assert lines.deny("r1", "No.") == (
        b'{"type":"control_response","response":{"subtype":"success","request_id":"r1",'
        b'"response":{"behavior":"deny","message":"No."}}}\n'
    )


def test_refuse() -> None:
    assert lines.refuse("r1", "no") == (
        b'{"type":"control_response","response":{"subtype":"error","request_id":"r1",'
        b'"error":"no"}}\n'
    )


# -- messages --------------------------------------------------------------------------------------


def test_a_user_message() -> None:
    assert lines.user("u1", ["hello", "there"]) == (
        b'{"type":"user","uuid":"u1","message":{"role":"user","content":['
        b'{"type":"text","text":"hello"},{"type":"text","text":"there"}]},'
        b'"parent_tool_use_id":null}\n'
    )


def test_a_user_message_of_the_history() -> None:
    assert lines.user("u1", ["hello"], query=False) == (
        b'{"type":"user","uuid":"u1","message":{"role":"user","content":['
        b'{"type":"text","text":"hello"}]},"parent_tool_use_id":null,"shouldQuery":false}\n'
    )


def test_an_assistant_message_of_the_history() -> None:
    assert lines.assistant("u1", ["A", " \n", "B", ""], "haiku") == (
        b'{"type":"assistant","uuid":"u1","message":{"id":"msg_u1","type":"message",'
        b'"role":"assistant","model":"haiku","content":[{"type":"text","text":"A"},'
        b'{"type":"text","text":"B"}],"stop_reason":"end_turn",'
        b'"usage":{"input_tokens":1,"output_tokens":1}},"parent_tool_use_id":null}\n'
    )


def told(*content: Block, query: bool = True) -> list[dict[str, Any]]:
    """The blocks of a user message with this content."""
    message = json.loads(bytes(lines.user("u", content, query=query)))["message"]
    assert isinstance(message["content"], list)
    return message["content"]


PICTURE = {
    "type": "image",
    "source": {"type": "base64", "media_type": "image/png", "data": "iVBORw0="},
}
FILE = {
    "type": "document",
    "source": {"type": "base64", "media_type": "application/pdf", "data": "JVBERi0="},
    "title": "report.pdf",
}


def text(said: str) -> dict[str, str]:
    return {"type": "text", "text": said}


def test_text_behind_a_picture_is_followed_by_an_empty_block() -> None:
    """The CLI would else add a line to it."""
    assert told(PNG, "what?") == [PICTURE, text("what?"), text("")]
    assert told("what?", PNG, "and?") == [text("what?"), PICTURE, text("and?"), text("")]


def test_text_before_a_picture_is_left_alone() -> None:
    assert told("/what?", PNG) == [text("/what?"), PICTURE]
    assert told(PNG) == [PICTURE]


def test_a_picture_in_a_tool_result_is_none_of_the_message() -> None:
    blocks = told(ToolResult("t", (PNG,)), "and?")
    assert blocks[1:] == [text("and?")]


def test_documents() -> None:
    assert told(PDF, "what?") == [FILE, text("what?")]
    untitled = {name: value for name, value in FILE.items() if name != "title"}
    assert told(Document("application/pdf", "JVBERi0=")) == [untitled]


def test_a_document_of_text_is_written_as_text() -> None:
    data = base64.b64encode("Grüße\n".encode() + b"\xff").decode()
    assert told(Document("text/plain", data, "a.txt"))[0] == {
        "type": "document",
        "source": {"type": "text", "media_type": "text/plain", "data": "Grüße\n\ufffd"},
        "title": "a.txt",
    }


def test_tool_results() -> None:
    assert told(
        ToolResult("toolu_1", ("a", " b\n", PNG, PDF)),
        ToolResult("toolu_2", ("no",), True),
        query=False,
    ) == [
        {
            "type": "tool_result",
            "tool_use_id": "toolu_1",
            "content": [text("a"), text(" b\n"), PICTURE, FILE],
        },
        {
            "type": "tool_result",
            "tool_use_id": "toolu_2",
            "content": "no",
            "is_error": True,
        },
    ]


def test_blank_text_is_left_out_of_a_tool_result() -> None:
    results = told(ToolResult("a", ("", "b")), ToolResult("c", ("",)), query=False)
    assert [each["content"] for each in results] == [[text("b")], []]


def test_behind_results_that_are_to_be_answered_an_empty_text_stands() -> None:
    """It keeps the last one exact where the CLI has something to say itself."""
    result = ToolResult("a", ("b",))
    assert told(result)[1:] == [text("")]
    assert told(result, query=False)[1:] == []
    assert told(result, "c")[1:] == [text("c")]


def test_tool_calls_of_the_history() -> None:
    said = bytes(
        lines.assistant(
            "u1",
            ["Let me see.", ToolCall("t1", "get weather", '{"n": 1.5}'), ToolCall("t2", "now", "")],
            "m",
        )
    )
    message = json.loads(said)["message"]
    assert message["stop_reason"] == "tool_use"
    assert message["content"] == [
        text("Let me see."),
        {"type": "tool_use", "id": "t1", "name": "get_weather_dce3870e", "input": {"n": 1.5}},
        {"type": "tool_use", "id": "t2", "name": "now", "input": {}},
    ]


def test_ids_that_another_provider_made_up_are_spelt_as_the_api_wants_them() -> None:
    """And the result goes by the same name as its call."""
    foreign = "functions.look:0"
    said = bytes(lines.assistant("u1", [ToolCall(foreign, "look")], "m"))
    [call] = json.loads(said)["message"]["content"]
    [result] = told(ToolResult(foreign, ("a",)), query=False)
    assert call["id"] == result["tool_use_id"]
    assert call["id"].startswith("functions_look_0_")
    assert re.fullmatch("[A-Za-z0-9_-]+", call["id"])


def test_blank_text_is_left_out_before_a_tool_call() -> None:
    content = json.loads(bytes(lines.assistant("u", ["", ToolCall("t", "now")], "m")))["message"][
        "content"
    ]
    assert [block["type"] for block in content] == ["tool_use"]


@pytest.mark.parametrize("value", [2**53 + 1, 2**70, [[["x"]]], "\ud800", None])
def test_arguments_are_sent_as_they_are(value: object) -> None:
    call = ToolCall("t", "now", json.dumps({"a": value}))
    said = bytes(lines.assistant("u", [call], "m"))
    assert said.count(b"\n") == 1
    assert json.loads(said)["message"]["content"][0]["input"] == {"a": value}


def test_the_deepest_arguments_can_be_written() -> None:
    call = ToolCall("t", "now", '{"a":' * 254 + "1" + "}" * 254)
    said = bytes(lines.assistant("u", [call], "m"))
    assert json.loads(said)["message"]["content"][0]["input"] == call.input


def blocks(content: list[str], *, query: bool = True) -> list[str]:
    message = json.loads(bytes(lines.user("u", content, query=query)))["message"]
    return [block["text"] for block in message["content"]]


@pytest.mark.parametrize("query", [True, False])
@pytest.mark.parametrize("text", ["/help", "/", "//x", "/usr/bin is a folder", "/help\nme"])
def test_a_slash_at_the_start_is_text(text: str, *, query: bool) -> None:
    """The last block would be a command. An empty one behind it is dropped before the API."""
    assert blocks([text], query=query) == [text, ""]
    assert blocks(["first", text], query=query) == ["first", text, ""]
    assert blocks([text, "last"], query=query) == [text, "last"]


@pytest.mark.parametrize("text", [" /help", "\n/help", "a/b", "@file", "!ls", "# x"])
def test_nothing_else_is_touched(text: str) -> None:
    assert blocks([text]) == [text]


@pytest.mark.parametrize("text", ["\0", "\x1b[0m", "\u2028\u2029", "\r\n", "\U0001f600", "\ufeffx"])
def test_every_character_reaches_the_child_on_one_line(text: str) -> None:
    said = bytes(lines.user("u", [text]))
    assert said.count(b"\n") == 1
    assert blocks([text]) == [text]


@pytest.mark.parametrize("half", ["\ud800", "x\udc00", "x\ud83dx"])
def test_a_lone_surrogate_is_written_as_an_escape(half: str) -> None:
    said = bytes(lines.user("u", [half]))
    assert said.isascii()
    assert said.count(b"\n") == 1
    assert blocks([half]) == [half]
    assert b"\\ud" in bytes(lines.initialize("r", Setup("m", half)))
    assert b"\\ud" in bytes(lines.assistant("u", [half], "m"))


@given(st.lists(st.text(st.characters(exclude_categories=())), min_size=1, max_size=3))
def test_any_text_is_one_line_that_holds_it(content: list[str]) -> None:
    said = bytes(lines.user("u", content))
    assert said.endswith(b"\n")
    assert said.count(b"\n") == 1
    got = blocks(content)
    assert got[: len(content)] == content
    assert got[len(content) :] == ([""] if content[-1].startswith("/") else [])


def test_thinking_goes_back_as_it_was() -> None:
    blocks: list[Block] = [
        Thinking("Hm.", "c2ln"),
        RedactedThinking("eA=="),
        Thinking("", "bQ=="),
        "Yes.",
    ]
    said = bytes(lines.assistant("u", blocks, "m"))
    assert (
        b'"content":[{"type":"thinking","thinking":"Hm.","signature":"c2ln"},'
        b'{"type":"redacted_thinking","data":"eA=="},'
        b'{"type":"thinking","thinking":"","signature":"bQ=="},{"type":"text","text":"Yes."}]'
    ) in said
