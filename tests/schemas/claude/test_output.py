"""The CLI's frames, byte by byte. The lines read here were printed by the real CLI, 2.1.330, cut
where they say more than anyone needs; the contract suite shows that it still prints such."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ccapi.schemas.claude.output import (
    ApiRetry,
    AssistantDone,
    ControlAnswer,
    ControlAsked,
    ControlCancelled,
    Frame,
    MessageEnded,
    MessageStarted,
    Noise,
    PermissionAsked,
    ToolInput,
    ToolReturned,
    ToolsReturned,
    ToolUseStarted,
    TurnResult,
    decode,
)
from ccapi.schemas.message import RedactedThinking, Thinking, ToolCall
from ccapi.schemas.turn import Usage
from ccapi.schemas.turn_items import MAX_ACTIVITY_OUTPUT, ReasoningDelta, TextDelta

UUID = "7c2d6b1e-0b0f-4f0e-9d43-0b6f3f6f3a01"
SESSION = "818ec814-c7f1-476a-9703-8cd5b247a9f6"


def line(**frame: Any) -> bytes:
    return json.dumps(frame).encode()


def stream_event(event: str) -> bytes:
    return (
        b'{"type":"stream_event","event":%b,"session_id":"%b","parent_tool_use_id":null,'
        b'"uuid":"%b"}' % (event.encode(), SESSION.encode(), UUID.encode())
    )


# -- what a child says -----------------------------------------------------------------------------

RESULT = (
    b'{"type":"result","subtype":"success","is_error":false,"duration_ms":31,"duration_api_ms":18,'
    b'"num_turns":1,"result":"turn 1: hello","stop_reason":"end_turn",'
    b'"session_id":"818ec814-c7f1-476a-9703-8cd5b247a9f6","total_cost_usd":0.000105,'
    b'"usage":{"input_tokens":10,"cache_creation_input_tokens":7,"cache_read_input_tokens":5,'
    b'"output_tokens":3,"server_tool_use":{"web_search_requests":0},"service_tier":"standard"},'
    b'"modelUsage":{},"permission_denials":[],"terminal_reason":"completed",'
    b'"user_message_uuid":"7c2d6b1e-0b0f-4f0e-9d43-0b6f3f6f3a01","uuid":"1b"}'
)
DONE = TurnResult(
    is_error=False,
    subtype="success",
    num_turns=1,
    text="turn 1: hello",
    stop_reason="end_turn",
    api_error_status=None,
    session_id=SESSION,
    usage=Usage(prompt_tokens=22, completion_tokens=3, cached_tokens=5, cache_write_tokens=7),
    total_cost_usd=0.000105,
    user_uuid=UUID,
    terminal_reason="completed",
)

SAID: dict[str, tuple[bytes, Frame]] = {
    "text delta": (
        stream_event(
            '{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"Hel"}}'
        ),
        TextDelta("Hel"),
    ),
    "thinking delta": (
        stream_event(
            '{"type":"content_block_delta","index":0,'
            '"delta":{"type":"thinking_delta","thinking":"Hm"}}'
        ),
        ReasoningDelta("Hm"),
    ),
    "signature delta": (
        stream_event(
            '{"type":"content_block_delta","index":0,'
            '"delta":{"type":"signature_delta","signature":"x"}}'
        ),
        Noise("stream_event"),
    ),
    "message start": (
        stream_event(
            '{"type":"message_start","message":{"id":"msg_1","usage":{"input_tokens":10,'
            '"cache_creation_input_tokens":7,"cache_read_input_tokens":5,"output_tokens":1}}}'
        ),
        MessageStarted(
            Usage(prompt_tokens=22, completion_tokens=1, cached_tokens=5, cache_write_tokens=7)
        ),
    ),
    "message start, bare": (
        stream_event('{"type":"message_start","message":{"id":"msg_1"}}'),
        MessageStarted(Usage()),
    ),
    "text block begins": (
        stream_event(
            '{"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}'
        ),
        Noise("stream_event"),
    ),
    "tool use begins": (
        stream_event(
            '{"type":"content_block_start","index":1,"content_block":{"type":"tool_use",'
            '"id":"toolu_1","name":"get_weather","input":{}}}'
        ),
        ToolUseStarted("toolu_1", "get_weather"),
    ),
    "tool input": (
        stream_event(
            '{"type":"content_block_delta","index":1,'
            '"delta":{"type":"input_json_delta","partial_json":"{\\"n\\": 1.0"}}'
        ),
        ToolInput('{"n": 1.0'),
    ),
    "block ends": (
        stream_event('{"type":"content_block_stop","index":0}'),
        Noise("stream_event"),
    ),
    "message end": (
        stream_event(
            '{"type":"message_delta","delta":{"stop_reason":"tool_use","stop_sequence":null},'
            '"usage":{"output_tokens":40,"output_tokens_details":{"thinking_tokens":25}}}'
        ),
        MessageEnded("tool_use", Usage(completion_tokens=40, reasoning_tokens=25)),
    ),
    "message end at a stop text": (
        stream_event(
            '{"type":"message_delta","delta":{"stop_reason":"stop_sequence","stop_sequence":"E"}}'
        ),
        MessageEnded("stop_sequence", Usage(), "E"),
    ),
    # The CLI's own, where it was interrupted.
    "message end without a reason": (
        stream_event(
            '{"type":"message_delta","delta":{"stop_reason":null},"usage":{"output_tokens":0}}'
        ),
        Noise("stream_event"),
    ),
    "tool use of a subagent": (
        (
            b'{"type":"stream_event","event":{"type":"content_block_start","index":0,'
            b'"content_block":{"type":"tool_use","id":"t","name":"n","input":{}}},'
            b'"parent_tool_use_id":"toolu_1","uuid":"u"}'
        ),
        Noise("stream_event"),
    ),
    # Not only the API's: the CLI closes an aborted stream with events of its own.
    "message stop": (stream_event('{"type":"message_stop"}'), Noise("stream_event")),
    "text of a subagent": (
        (
            b'{"type":"stream_event","event":{"type":"content_block_delta","index":0,"delta":'
            b'{"type":"text_delta","text":"sub"}},"parent_tool_use_id":"toolu_1","uuid":"u"}'
        ),
        Noise("stream_event"),
    ),
    "assistant": (
        (
            b'{"type":"assistant","message":{"model":"claude-sonnet-4-5","id":"msg_1","type":"message",'
            b'"role":"assistant","content":[{"type":"text","text":"Hello"}],"stop_reason":null,'
            b'"usage":{"input_tokens":10,"output_tokens":1}},"parent_tool_use_id":null,'
            b'"session_id":"s","uuid":"7c2d6b1e-0b0f-4f0e-9d43-0b6f3f6f3a01"}'
        ),
        AssistantDone(UUID, synthetic=False, text="Hello"),
    ),
    "assistant that thinks": (
        (
            b'{"type":"assistant","message":{"model":"m","content":[{"type":"thinking",'
            b'"thinking":"Hm","signature":"x"}]},"parent_tool_use_id":null,"uuid":"u"}'
        ),
        AssistantDone("u", synthetic=False, thinking=Thinking("Hm", "x")),
    ),
    "assistant that thinks unseen": (
        (
            b'{"type":"assistant","message":{"model":"m","content":[{"type":"redacted_thinking",'
            b'"data":"eA=="}]},"parent_tool_use_id":null,"uuid":"u"}'
        ),
        AssistantDone("u", synthetic=False, thinking=RedactedThinking("eA==")),
    ),
    "assistant that calls": (
        (
            b'{"type":"assistant","message":{"model":"m","content":[{"type":"tool_use",'
            b'"id":"toolu_1","name":"get_weather","input":{"city":"K\xc3\xb6ln","n":[1,2]}}]},'
            b'"parent_tool_use_id":null,"uuid":"u"}'
        ),
        AssistantDone(
            "u",
            synthetic=False,
            call=ToolCall("toolu_1", "get_weather", '{"city":"K\u00f6ln","n":[1,2]}'),
        ),
    ),
    "assistant, aborted": (
        (
            b'{"type":"assistant","message":{"model":"m","content":[{"type":"text","text":"abc"}]},'
            b'"parent_tool_use_id":null,"session_id":"s","uuid":"u","aborted":true}'
        ),
        AssistantDone("u", synthetic=False, text="abc"),
    ),
    "assistant, an error": (
        (
            b'{"type":"assistant","message":{"model":"<synthetic>","content":[{"type":"text",'
            b'"text":"API Error: 500"}]},"parent_tool_use_id":null,"uuid":"u",'
            b'"error":"server_error","is_api_error_message":true}'
        ),
        AssistantDone("u", synthetic=True, text="API Error: 500", error="server_error"),
    ),
    "assistant of a subagent": (
        (
            b'{"type":"assistant","message":{"model":"m","content":[]},'
            b'"parent_tool_use_id":"toolu_1","uuid":"u"}'
        ),
        Noise("subagent"),
    ),
    "result": (RESULT, DONE),
    "result of a history message": (
        (
            b'{"type":"result","subtype":"success","is_error":false,"num_turns":0,"result":"",'
            b'"stop_reason":null,"api_error_status":null,"session_id":"s","total_cost_usd":0,'
            b'"usage":{"input_tokens":0,"output_tokens":0},"user_message_uuid":"u"}'
        ),
        TurnResult(False, "success", 0, "", None, None, "s", Usage(), user_uuid="u"),
    ),
    "result of an API error": (
        (
            b'{"type":"result","subtype":"success","is_error":true,"api_error_status":429,'
            b'"num_turns":1,"result":"API Error: 429","stop_reason":"stop_sequence",'
            b'"terminal_reason":"api_error","session_id":"s","user_message_uuid":"u"}'
        ),
        TurnResult(
            is_error=True,
            subtype="success",
            num_turns=1,
            text="API Error: 429",
            stop_reason="stop_sequence",
            api_error_status=429,
            session_id="s",
            usage=Usage(),
            user_uuid="u",
            terminal_reason="api_error",
        ),
    ),
    "result of a rewound turn": (
        (
            b'{"type":"result","subtype":"error_during_execution","is_error":true,"num_turns":2,'
            b'"stop_reason":null,"terminal_reason":"aborted_streaming","session_id":"s",'
            b'"usage":{"input_tokens":0,"output_tokens":0},"errors":["[ede_diagnostic] x"],'
            b'"user_message_uuid":"u"}'
        ),
        TurnResult(
            is_error=True,
            subtype="error_during_execution",
            num_turns=2,
            text="[ede_diagnostic] x",
            stop_reason=None,
            api_error_status=None,
            session_id="s",
            usage=Usage(),
            user_uuid="u",
            terminal_reason="aborted_streaming",
        ),
    ),
    "result of a session that is not there": (
        (
            b'{"type":"result","subtype":"error_during_execution","is_error":true,"num_turns":0,'
            b'"session_id":"s","errors":["No conversation found with session ID: s"]}'
        ),
        TurnResult(
            is_error=True,
            subtype="error_during_execution",
            num_turns=0,
            text="No conversation found with session ID: s",
            stop_reason=None,
            api_error_status=None,
            session_id="s",
            usage=Usage(),
        ),
    ),
    "answer to an initialize": (
        (
            b'{"type":"control_response","response":{"subtype":"success","request_id":"initialize",'
            b'"response":{"commands":[],"agents":[]}}}'
        ),
        ControlAnswer("initialize", {"commands": [], "agents": []}, None),
    ),
    "answer to a rewind": (
        (
            b'{"type":"control_response","response":{"subtype":"success","request_id":"r3","response":'
            b'{"rewound":true,"targetMessageUuid":"u","prefillText":"two",'
            b'"precedingAssistantUuid":null}}}'
        ),
        ControlAnswer(
            "r3",
            {
                "rewound": True,
                "targetMessageUuid": "u",
                "prefillText": "two",
                "precedingAssistantUuid": None,
            },
            None,
        ),
    ),
    "answer to a rewind in vain": (
        (
            b'{"type":"control_response","response":{"subtype":"success","request_id":"r",'
            b'"response":{"rewound":false,"error":"target not found","reason":"target_not_found"}}}'
        ),
        ControlAnswer(
            "r",
            {"rewound": False, "error": "target not found", "reason": "target_not_found"},
            None,
        ),
    ),
    "answer without a body": (
        b'{"type":"control_response","response":{"subtype":"success","request_id":"r"}}',
        ControlAnswer("r", {}, None),
    ),
    "answer that refuses": (
        (
            b'{"type":"control_response","response":{"subtype":"error","request_id":"r",'
            b'"error":"Unsupported control request subtype: wat",'
            b'"error_code":"unsupported_request"}}'
        ),
        ControlAnswer("r", {}, "Unsupported control request subtype: wat"),
    ),
    "request for permission": (
        (
            b'{"type":"control_request","request_id":"0f52","request":{"subtype":"can_use_tool",'
            b'"tool_name":"Bash","display_name":"Bash","input":{"command":"touch x"},'
            b'"description":"touch x","permission_suggestions":[{"type":"addRules","rules":['
            b'{"toolName":"Bash","ruleContent":"touch x *"}],"behavior":"allow",'
            b'"destination":"localSettings"},{"type":"setMode","mode":"acceptEdits",'
            b'"destination":"session"}],"blocked_path":"/w/x","tool_use_id":"toolu_1"}}'
        ),
        PermissionAsked(
            "0f52",
            "Bash",
            {"command": "touch x"},
            "toolu_1",
            title="Bash",
            description="touch x",
            suggestions=(
                {
                    "type": "addRules",
                    "rules": [{"toolName": "Bash", "ruleContent": "touch x *"}],
                    "behavior": "allow",
                    "destination": "localSettings",
                },
                {"type": "setMode", "mode": "acceptEdits", "destination": "session"},
            ),
        ),
    ),
    "request for permission, bare": (
        (
            b'{"type":"control_request","request_id":"r","request":{"subtype":"can_use_tool",'
            b'"tool_name":"Bash","input":{},"title":7,"permission_suggestions":["x"]}}'
        ),
        PermissionAsked("r", "Bash", {}, ""),
    ),
    "request for permission for an unknown act": (
        (
            b'{"type":"control_request","request_id":"r","request":{"subtype":"can_use_tool",'
            b'"tool_name":"Bash"}}'
        ),
        ControlAsked("r", "can_use_tool"),
    ),
    "question taken back": (
        b'{"type":"control_cancel_request","request_id":"0f52"}',
        ControlCancelled("0f52"),
    ),
    "question of the tool server": (
        (
            b'{"type":"control_request","request_id":"7","request":{"subtype":"mcp_message",'
            b'"server_name":"client","message":{"method":"tools/list","jsonrpc":"2.0","id":1}}}'
        ),
        ControlAsked("7", "mcp_message", {"method": "tools/list", "jsonrpc": "2.0", "id": 1}),
    ),
    "init": (
        b'{"type":"system","subtype":"init","cwd":"/x","session_id":"s","tools":[],"uuid":"u"}',
        Noise("system"),
    ),
    "retry": (
        (
            b'{"type":"system","subtype":"api_retry","attempt":1,"max_retries":10,'
            b'"retry_delay_ms":581,"error_status":429,"error":"rate_limit"}'
        ),
        ApiRetry(0.581),
    ),
    # "event" is a string here, other than in a stream_event.
    "ui": (b'{"type":"system","subtype":"ui_invalidate","event":"ui.render"}', Noise("system")),
    "title": (
        b'{"type":"system","subtype":"session_title_changed","title":"t"}',
        Noise("system"),
    ),
    "lifecycle": (
        b'{"type":"command_lifecycle","command_uuid":"u","state":"completed"}',
        Noise("command_lifecycle"),
    ),
    "marker": (
        (
            b'{"type":"user","message":{"role":"user","content":[{"type":"text",'
            b'"text":"[Request interrupted by user]"}]},"parent_tool_use_id":null}'
        ),
        Noise("user"),
    ),
    "result of a tool": (
        (
            b'{"type":"user","message":{"role":"user","content":[{"tool_use_id":"toolu_1",'
            b'"type":"tool_result","content":"a.txt","is_error":false}]},'
            b'"parent_tool_use_id":null,"session_id":"s","uuid":"u","tool_use_result":'
            b'{"stdout":"a.txt","stderr":"","interrupted":false}}'
        ),
        ToolsReturned((ToolReturned("toolu_1", "a.txt", content=("a.txt",)),)),
    ),
    "result of a tool that failed": (
        (
            b'{"type":"user","message":{"role":"user","content":[{"type":"tool_result",'
            b'"content":"Exit code 3\\nerr","is_error":true,"tool_use_id":"toolu_1"}]},'
            b'"parent_tool_use_id":null,"tool_use_result":"Error: Exit code 3\\nerr"}'
        ),
        ToolsReturned(
            (
                ToolReturned(
                    "toolu_1", "Exit code 3\nerr", is_error=True, content=("Exit code 3\nerr",)
                ),
            )
        ),
    ),
    "results of tools, in blocks": (
        (
            b'{"type":"user","message":{"role":"user","content":[{"type":"tool_result",'
            b'"tool_use_id":"t1","content":[{"type":"text","text":"a"},{"type":"image","source":'
            b'{}},{"type":"text","text":"b"}]},{"type":"text","text":"by the way"},'
            b'{"type":"tool_result","tool_use_id":"t2","content":[]},'
            b'{"type":"tool_result","tool_use_id":"t3"}]},"parent_tool_use_id":null}'
        ),
        ToolsReturned(
            (
                ToolReturned("t1", "a\n[image]\nb"),
                ToolReturned("t2", "", content=()),
                ToolReturned("t3", "", content=()),
            )
        ),
    ),
    "result of a tool of a subagent": (
        (
            b'{"type":"user","message":{"role":"user","content":[{"type":"tool_result",'
            b'"tool_use_id":"t","content":"x"}]},"parent_tool_use_id":"toolu_1"}'
        ),
        Noise("user"),
    ),
    "user, repeated": (
        (
            b'{"type":"user","message":{"role":"user","content":[{"type":"tool_result",'
            b'"tool_use_id":"t","content":"x"}]},"parent_tool_use_id":null,"isReplay":true}'
        ),
        Noise("user"),
    ),
    "user, a string": (
        b'{"type":"user","message":{"role":"user","content":"x"},"parent_tool_use_id":null}',
        Noise("user"),
    ),
    "keep alive": (b'{"type":"keep_alive"}', Noise("keep_alive")),
}


@pytest.mark.parametrize(("said", "frame"), SAID.values(), ids=SAID)
def test_what_a_child_says(said: bytes, frame: Frame) -> None:
    assert decode(said) == frame


RETURNED = {"type": "tool_result", "tool_use_id": "t"}


def test_what_a_tool_returns_is_cut() -> None:
    block = {**RETURNED, "content": "x" * MAX_ACTIVITY_OUTPUT + "y"}
    frame = decode(line(type="user", message={"role": "user", "content": [block]}))
    whole = (block["content"],)
    assert frame == ToolsReturned((ToolReturned("t", "x" * MAX_ACTIVITY_OUTPUT, content=whole),))


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        (b"null", "NoneType"),
        (b"[1]", "list"),
        (b'"text"', "str"),
        (b"{}", "None"),
        (b'{"type":7}', "7"),
        (b'{"type":"from_the_future","x":1}', "from_the_future"),
        (b'{"type":"stream_event"}', "stream_event"),
        (b'{"type":"stream_event","event":"ui.render"}', "stream_event"),
        (stream_event('{"type":"content_block_delta"}'), "stream_event"),
        (stream_event('{"type":"content_block_delta","delta":[]}'), "stream_event"),
        (
            stream_event('{"type":"content_block_delta","delta":{"type":"text_delta","text":1}}'),
            "stream_event",
        ),
        (
            stream_event('{"type":"content_block_delta","delta":{"type":"input_json_delta"}}'),
            "stream_event",
        ),
        (stream_event('{"type":"content_block_start"}'), "stream_event"),
        (
            stream_event('{"type":"content_block_start","content_block":{"type":"tool_use"}}'),
            "stream_event",
        ),
        (stream_event('{"type":"message_start"}'), "stream_event"),
        (stream_event('{"type":"message_delta"}'), "stream_event"),
        (b'{"type":"system","subtype":"api_retry"}', "system"),
        (b'{"type":"system","subtype":"api_retry","retry_delay_ms":"soon"}', "system"),
        (b'{"type":"assistant"}', "assistant"),
        (b'{"type":"assistant","uuid":"u"}', "assistant"),
        (b'{"type":"assistant","uuid":"u","message":"x"}', "assistant"),
        (b'{"type":"assistant","uuid":"u","message":{"content":["x"]}}', "assistant"),
        (b'{"type":"assistant","message":{"content":[]}}', "assistant"),
        (b'{"type":"control_response"}', "control_response"),
        (b'{"type":"control_response","response":[]}', "control_response"),
        (b'{"type":"control_response","response":{}}', "control_response"),
        (b'{"type":"control_request","request_id":"r"}', "control_request"),
        (b'{"type":"control_request","request":{}}', "control_request"),
        (b'{"type":"control_request","request_id":"r","request":7}', "control_request"),
        (b'{"type":"control_cancel_request"}', "control_cancel_request"),
        (b'{"type":"user"}', "user"),
        (b'{"type":"user","message":{"content":["x"]}}', "user"),
        (b'{"type":"user","message":{"content":[{"type":"tool_result"}]}}', "user"),
        (
            line(type="user", message={"content": [{**RETURNED, "content": ["x"]}]}),
            "user",
        ),
    ],
)
def test_what_is_not_understood_is_noise(said: bytes, kind: str) -> None:
    assert decode(said) == Noise(kind)


@pytest.mark.parametrize(
    "changes",
    [
        {"usage": None},
        {"usage": "lots"},
        {"usage": {"input_tokens": "ten", "output_tokens": None, "cache_read_input_tokens": -1}},
        {"num_turns": "many"},
        {"result": {"text": "x"}},
        {"errors": "x"},
        {"stop_reason": ["end_turn"]},
        {"api_error_status": "500"},
        {"session_id": 7},
        {"total_cost_usd": "free"},
        {"user_message_uuid": {}},
        {"terminal_reason": 7},
        {"usage": {"output_tokens_details": "many"}},
        {"usage": {"output_tokens_details": {"thinking_tokens": None}}},
    ],
    ids=str,
)
def test_a_result_stays_a_result_whatever_is_wrong_with_it(changes: dict[str, object]) -> None:
    """A turn would hang without one."""
    result = decode(line(**json.loads(RESULT) | changes))
    assert isinstance(result, TurnResult)
    assert isinstance(result.stop_reason, str | None)
    assert isinstance(result.api_error_status, int | None)
    assert min(result.usage.prompt_tokens, result.usage.completion_tokens, result.num_turns) >= 0


def test_what_was_thought_is_counted() -> None:
    usage = {"output_tokens": 40, "output_tokens_details": {"thinking_tokens": 25}}
    result = decode(line(type="result", usage=usage))
    assert isinstance(result, TurnResult)
    assert result.usage == Usage(completion_tokens=40, reasoning_tokens=25)


@pytest.mark.parametrize("depth", [200, 300, 900])
def test_a_call_is_delivered_however_deep_its_arguments_are(depth: int) -> None:
    """One that began and is never whole would keep the turn waiting."""
    deep = b'{"a":' * depth + b"1" + b"}" * depth
    said = (
        b'{"type":"assistant","message":{"content":[{"type":"tool_use","id":"t","name":"n",'
        b'"input":%b}]},"uuid":"u"}' % deep
    )
    done = decode(said)
    assert isinstance(done, AssistantDone)
    assert done.call is not None
    assert done.call.input == (json.loads(deep) if depth == 200 else {})


def test_the_message_to_the_tool_server_comes_whole() -> None:
    """It takes no part in a frame's equality."""
    message = {"method": "tools/call", "params": {"name": "t", "arguments": {"a": [1]}}, "id": 2}
    asked = decode(
        line(type="control_request", request_id="7", request={"subtype": "x", "message": message})
    )
    assert isinstance(asked, ControlAsked)
    assert asked.mcp == message


def test_a_result_may_be_bare() -> None:
    empty = TurnResult(False, "", 0, "", None, None, "", Usage())
    assert decode(b'{"type":"result"}') == empty


def test_the_answer_to_a_question_is_always_a_mapping() -> None:
    said = line(type="control_response", response={"request_id": "r", "response": "yes"})
    assert decode(said) == ControlAnswer("r", {}, "refused")


@pytest.mark.parametrize(
    "said",
    [b"", b" ", b"{", b"Error: x", b'{"type":"result"} x', b"\xff", b"[" * 99999],
    ids=lambda said: repr(said[:12]),
)
def test_what_is_not_json_is_an_error(said: bytes) -> None:
    with pytest.raises(ValueError):
        decode(said)


@pytest.mark.parametrize(
    ("escaped", "text"),
    [
        (r"cut \ud83d", "cut \ufffd"),
        (r"\ude00 cut", "\ufffd cut"),
        (r"\ude00\ud83d", "\ufffd\ufffd"),
        (r"\ud83d\ude00", "\U0001f600"),
        (r"\ud83d and \ud83d\ude00", "\ufffd and \U0001f600"),
        (r"\\ud83d", r"\ud83d"),
    ],
)
def test_half_a_surrogate_pair_is_read_as_a_replacement_character(escaped: str, text: str) -> None:
    """JavaScript writes such halves where it has cut a text; they must not end the conversation."""
    delta = '{"type":"content_block_delta","delta":{"type":"text_delta","text":"CUT"}}'
    assert decode(stream_event(delta.replace("CUT", escaped))) == TextDelta(text)


def test_text_comes_through_exactly() -> None:
    text = "\u2028 \0 \x7f \U0001f600 \ufeff\r\n\t\\u0041 <|end|>"
    delta = {"type": "text_delta", "text": text}
    event = {"type": "content_block_delta", "index": 0, "delta": delta}
    for ascii_only in (True, False):
        said = json.dumps({"type": "stream_event", "event": event}, ensure_ascii=ascii_only)
        assert decode(said.encode()) == TextDelta(text)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-10, 10**20) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)


KINDS = ["stream_event", "assistant", "result", "control_response", "control_request", "system"]


@given(kind=st.sampled_from(KINDS), rest=JSON)
def test_no_json_breaks_the_reader(kind: str, rest: object) -> None:
    """Whatever stands where a frame's own fields should be."""
    names = ("event", "message", "response", "request", "usage", "result", "errors", "num_turns")
    for name in names:
        said = json.dumps({"type": kind, "uuid": "u", name: rest}).encode()
        if b"NaN" not in said and b"Infinity" not in said:
            decode(said)
    with_all = json.dumps({"type": kind, "uuid": "u"} | dict.fromkeys(names, rest)).encode()
    if b"NaN" not in with_all and b"Infinity" not in with_all:
        decode(with_all)


EVENTS = ["content_block_delta", "content_block_start", "message_start", "message_delta"]


@given(kind=st.sampled_from(EVENTS), rest=JSON)
def test_no_event_breaks_the_reader(kind: str, rest: object) -> None:
    names = ("delta", "content_block", "message", "usage")
    for event in ({"type": kind, name: rest} for name in names):
        said = json.dumps({"type": "stream_event", "event": event}).encode()
        if b"NaN" not in said and b"Infinity" not in said:
            decode(said)
