"""The CLI's frames, byte by byte. The lines read here were printed by the real CLI, 2.1.330, cut
where they say more than anyone needs; the contract suite shows that it still prints such."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ccapi.schemas import frames
from ccapi.schemas.frames import (
    AssistantDone,
    ControlAnswer,
    ControlAsked,
    Frame,
    Noise,
    TurnResult,
    decode,
)
from ccapi.schemas.turn import Setup, TextDelta, Usage

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
        Noise("stream_event"),
    ),
    "message start": (
        stream_event('{"type":"message_start","message":{"id":"msg_1"}}'),
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
        AssistantDone("u", synthetic=False),
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
        AssistantDone("u", synthetic=True, text="API Error: 500"),
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
    "question": (
        (
            b'{"type":"control_request","request_id":"0f52","request":{"subtype":"can_use_tool",'
            b'"tool_name":"Bash","input":{}}}'
        ),
        ControlAsked("0f52", "can_use_tool"),
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
        Noise("system"),
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
    "keep alive": (b'{"type":"keep_alive"}', Noise("keep_alive")),
}


@pytest.mark.parametrize(("said", "frame"), SAID.values(), ids=SAID)
def test_what_a_child_says(said: bytes, frame: Frame) -> None:
    assert decode(said) == frame


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
    ],
)
def test_what_nobody_understands_is_noise(said: bytes, kind: str) -> None:
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


@given(kind=st.sampled_from(["stream_event", "assistant", "result", "control_response"]), rest=JSON)
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


# -- what is said to it ----------------------------------------------------------------------------


def test_initialize() -> None:
    said = frames.initialize("initialize", Setup("haiku", "Be brief."))
    assert said == (
        b'{"type":"control_request","request_id":"initialize","request":{"subtype":"initialize",'
        b'"systemPrompt":["Be brief."],"agents":{"gw":{"description":"gw","prompt":"Be brief.",'
        b'"model":"haiku"}},"systemPromptSnapshot":false}}\n'
    )


def test_initialize_without_a_system_prompt() -> None:
    """An empty list is the only way to have none: "" falls back to the agent's prompt."""
    request = json.loads(frames.initialize("r", Setup("haiku")))["request"]
    assert request["systemPrompt"] == []
    assert request["agents"]["gw"] == {"description": "gw", "prompt": "", "model": "haiku"}


def test_rewind() -> None:
    assert frames.rewind("r1", "u1") == (
        b'{"type":"control_request","request_id":"r1","request":{"subtype":"rewind_conversation",'
        b'"target_message_uuid":"u1","interrupt_if_running":true}}\n'
    )


def test_refuse() -> None:
    assert frames.refuse("r1", "no") == (
        b'{"type":"control_response","response":{"subtype":"error","request_id":"r1",'
        b'"error":"no"}}\n'
    )


def test_a_user_message() -> None:
    assert frames.user("u1", ["hello", "there"]) == (
        b'{"type":"user","uuid":"u1","message":{"role":"user","content":['
        b'{"type":"text","text":"hello"},{"type":"text","text":"there"}]},'
        b'"parent_tool_use_id":null}\n'
    )


def test_a_user_message_of_the_history() -> None:
    assert frames.user("u1", ["hello"], query=False) == (
        b'{"type":"user","uuid":"u1","message":{"role":"user","content":['
        b'{"type":"text","text":"hello"}]},"parent_tool_use_id":null,"shouldQuery":false}\n'
    )


def test_an_assistant_message_of_the_history() -> None:
    assert frames.assistant("u1", ["A", " \n", "B", ""], "haiku") == (
        b'{"type":"assistant","uuid":"u1","message":{"id":"msg_u1","type":"message",'
        b'"role":"assistant","model":"haiku","content":[{"type":"text","text":"A"},'
        b'{"type":"text","text":"B"}],"stop_reason":"end_turn",'
        b'"usage":{"input_tokens":1,"output_tokens":1}},"parent_tool_use_id":null}\n'
    )


def blocks(content: list[str], *, query: bool = True) -> list[str]:
    message = json.loads(frames.user("u", content, query=query))["message"]
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
    said = frames.user("u", [text])
    assert said.count(b"\n") == 1
    assert blocks([text]) == [text]


@pytest.mark.parametrize("half", ["\ud800", "x\udc00", "x\ud83dx"])
def test_a_lone_surrogate_is_written_as_an_escape(half: str) -> None:
    said = frames.user("u", [half])
    assert said.isascii()
    assert said.count(b"\n") == 1
    assert blocks([half]) == [half]
    assert b"\\ud" in frames.initialize("r", Setup("m", half))
    assert b"\\ud" in frames.assistant("u", [half], "m")


@given(st.lists(st.text(st.characters(exclude_categories=())), min_size=1, max_size=3))
def test_any_text_is_one_line_that_holds_it(content: list[str]) -> None:
    said = frames.user("u", content)
    assert said.endswith(b"\n")
    assert said.count(b"\n") == 1
    got = blocks(content)
    assert got[: len(content)] == content
    assert got[len(content) :] == ([""] if content[-1].startswith("/") else [])
