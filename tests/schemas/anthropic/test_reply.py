"""The answer in the Messages dialect, byte by byte, and held against the SDK's types."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ccapi.schemas.anthropic.messages import parse_messages
from ccapi.schemas.anthropic.reply import (
    PING,
    Content,
    Ending,
    EventWriter,
    Heading,
    encode_error_event,
    encode_message,
)
from ccapi.schemas.convert import write_json
from ccapi.schemas.errors import draining
from ccapi.schemas.message import RedactedThinking, Thinking
from ccapi.schemas.turn import Usage
from ccapi.schemas.turn_items import (
    ActivityStarted,
    ReasoningDelta,
    ReasoningEnded,
    Refused,
    TextDelta,
    TextEnded,
    ToolCallDelta,
    ToolCallStarted,
    TurnItem,
)

from ...support.anthropic_messages import JSON, message_of, put_together, raw_events

STOPPED = Ending("stop")
HEADING = Heading("msg_1", "sonnet")
USAGE = Usage(
    prompt_tokens=100, completion_tokens=7, cached_tokens=60, cache_write_tokens=30,
    reasoning_tokens=3,
)  # fmt: skip


def streamed(items: list[TurnItem], ending: Ending = STOPPED) -> bytes:
    writer = EventWriter(HEADING)
    said = b"".join(map(writer.item, items))
    return writer.first() + said + writer.last(ending, USAGE)


def whole(items: list[TurnItem], ending: Ending = STOPPED) -> JSON:
    content = Content()
    content.add(items)
    body = write_json(encode_message(HEADING, content, ending, USAGE))
    message_of(body)
    found: JSON = json.loads(body)
    return found


def as_streamed(message: JSON) -> JSON:
    """How long what was cached is kept stands at the beginning, where nothing is known of it."""
    return {**message, "usage": {**message["usage"], "cache_creation": None}}


def test_a_stream_of_text_byte_by_byte() -> None:
    assert streamed([TextDelta("Hé"), TextDelta('"\n')]).decode() == (
        "event: message_start\n"
        'data: {"type":"message_start","message":{"id":"msg_1","type":"message",'
        '"role":"assistant","model":"sonnet","content":[],"stop_reason":null,'
        '"stop_sequence":null,"stop_details":null,"usage":{"input_tokens":0,'
        '"cache_creation_input_tokens":0,"cache_read_input_tokens":0,"output_tokens":0,'
        '"output_tokens_details":{"thinking_tokens":0},"server_tool_use":null,'
        '"cache_creation":null,'
        '"service_tier":"standard","inference_geo":null}}}\n\n'
        'event: ping\ndata: {"type":"ping"}\n\n'
        "event: content_block_start\n"
        'data: {"type":"content_block_start","index":0,'
        '"content_block":{"type":"text","text":""}}\n\n'
        "event: content_block_delta\n"
        'data: {"type":"content_block_delta","index":0,'
        '"delta":{"type":"text_delta","text":"Hé"}}\n\n'
        "event: content_block_delta\n"
        'data: {"type":"content_block_delta","index":0,'
        '"delta":{"type":"text_delta","text":"\\"\\n"}}\n\n'
        'event: content_block_stop\ndata: {"type":"content_block_stop","index":0}\n\n'
        "event: message_delta\n"
        'data: {"type":"message_delta","delta":{"stop_reason":"end_turn","stop_sequence":null,'
        '"stop_details":null},"usage":{"input_tokens":10,"cache_creation_input_tokens":30,'
        '"cache_read_input_tokens":60,"output_tokens":7,'
        '"output_tokens_details":{"thinking_tokens":3},"server_tool_use":null}}\n\n'
        'event: message_stop\ndata: {"type":"message_stop"}\n\n'
    )


def test_every_kind_of_block_with_its_borders() -> None:
    items: list[TurnItem] = [
        ReasoningDelta("Hm"),
        ReasoningDelta("."),
        ReasoningEnded(Thinking("Hm.", "sig1")),
        ReasoningEnded(RedactedThinking("cipher")),
        ReasoningEnded(Thinking("", "sig2")),
        TextDelta("One"),
        TextEnded(),
        TextDelta("Two"),
        TextEnded(),
        ToolCallStarted(0, "toolu_1", "add"),
        ToolCallDelta(0, '{"a"'),
        ToolCallDelta(0, ": 1}"),
        ToolCallStarted(1, "toolu_2", "now"),
    ]
    content = [
        {"type": "thinking", "thinking": "Hm.", "signature": "sig1"},
        {"type": "redacted_thinking", "data": "cipher"},
        {"type": "thinking", "thinking": "", "signature": "sig2"},
        {"type": "text", "text": "One"},
        {"type": "text", "text": "Two"},
        {"type": "tool_use", "id": "toolu_1", "name": "add", "input": {"a": 1}},
        {"type": "tool_use", "id": "toolu_2", "name": "now", "input": {}},
    ]
    ending = Ending("tool_calls")
    assert whole(items, ending)["content"] == content
    assert put_together(streamed(items, ending)) == as_streamed(whole(items, ending))


def test_without_borders_a_block_ends_where_another_kind_begins() -> None:
    items: list[TurnItem] = [
        ReasoningDelta("Hm."),
        TextDelta("One"),
        TextDelta("Two"),
        ActivityStarted("act_1", "Bash"),
        TextDelta("Three"),
        ToolCallStarted(0, "toolu_1", "add"),
    ]
    said = whole(items, Ending("tool_calls"))
    assert [block["type"] for block in said["content"]] == ["thinking", "text", "tool_use"]
    assert said["content"][1]["text"] == "OneTwoThree"
    assert put_together(streamed(items, Ending("tool_calls"))) == as_streamed(said)


def test_empty_pieces_make_no_block() -> None:
    items: list[TurnItem] = [TextDelta(""), TextEnded(), TextEnded()]
    assert whole(items)["content"] == []
    assert put_together(streamed(items))["content"] == []


@pytest.mark.parametrize(
    ("ending", "shown"),
    [
        (Ending("stop"), ("end_turn", None)),
        (Ending("stop", "END"), ("stop_sequence", "END")),
        (Ending("length"), ("max_tokens", None)),
        (Ending("length", None, "max_tokens"), ("max_tokens", None)),
        (
            Ending("length", None, "model_context_window_exceeded"),
            ("model_context_window_exceeded", None),
        ),
        (Ending("length", None, "pause_turn"), ("pause_turn", None)),
        (Ending("stop", "END", "end_turn"), ("stop_sequence", "END")),
        (Ending("tool_calls"), ("tool_use", None)),
        (Ending("content_filter"), ("refusal", None)),
    ],
)
def test_every_reason_to_stop(ending: Ending, shown: tuple[str, str | None]) -> None:
    said = whole([TextDelta("Hi")], ending)
    assert (said["stop_reason"], said["stop_sequence"]) == shown
    assert put_together(streamed([TextDelta("Hi")], ending)) == as_streamed(said)


def test_a_refusal_is_no_block() -> None:
    writer = EventWriter(HEADING)
    assert writer.item(Refused("I will not.")) == b""
    ending = Ending("content_filter", refusal=writer.refusal)
    said = whole([Refused("I will not.")], ending)
    assert said["content"] == []
    assert said["stop_details"] == {
        "type": "refusal",
        "category": None,
        "explanation": "I will not.",
    }
    assert put_together(streamed([Refused("I will not.")], ending)) == as_streamed(said)


def test_half_a_call_has_no_input() -> None:
    items: list[TurnItem] = [ToolCallStarted(0, "toolu_1", "add"), ToolCallDelta(0, '{"a')]
    assert whole(items, Ending("length"))["content"][0]["input"] == {}


def test_an_error_in_a_stream() -> None:
    [ping, failed] = raw_events(PING + encode_error_event(draining(), "req_1"))
    assert ping == {"type": "ping"}
    assert failed == {
        "type": "error",
        "error": {"type": "overloaded_error", "message": "The gateway is stopping."},
        "request_id": "req_1",
    }


# -- what is given comes back ----------------------------------------------------------------------

WORDS = st.text(st.characters(codec="utf-8"), min_size=1, max_size=8).filter(
    lambda text: bool(text.replace("\ufeff", "").strip())
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3),
    max_leaves=6,
)


@st.composite
def answers(draw: st.DrawFn) -> list[TurnItem]:
    """The items of an answer with blocks of every kind, in any pieces."""
    items: list[TurnItem] = []
    calls = 0
    for kind in draw(st.lists(st.sampled_from("ttkrc"), min_size=1, max_size=6)):
        if kind == "t":
            items += [TextDelta(piece) for piece in draw(st.lists(WORDS, min_size=1, max_size=3))]
            items.append(TextEnded())
        elif kind == "k":
            pieces = draw(st.lists(WORDS, max_size=3))
            items += [ReasoningDelta(piece) for piece in pieces]
            items.append(ReasoningEnded(Thinking("".join(pieces), draw(WORDS))))
        elif kind == "r":
            items.append(ReasoningEnded(RedactedThinking(draw(WORDS))))
        else:
            text = json.dumps(draw(st.dictionaries(WORDS, VALUES, max_size=3)))
            cut = draw(st.integers(0, len(text)))
            items.append(ToolCallStarted(calls, f"toolu_{calls}", draw(WORDS)))
            items += [ToolCallDelta(calls, text[:cut]), ToolCallDelta(calls, text[cut:])]
            calls += 1
    return items


@given(answers())
def test_an_answer_comes_back_as_history_block_by_block(items: list[TurnItem]) -> None:
    said = whole(items)
    assert put_together(streamed(items)) == as_streamed(said)
    calls = [block["id"] for block in said["content"] if block["type"] == "tool_use"]
    results = [{"type": "tool_result", "tool_use_id": call, "content": "done"} for call in calls]
    more: Any = {"role": "user", "content": [*results, {"type": "text", "text": "More"}]}
    history = [{"role": "user", "content": "Hi"}, {"role": "assistant", **_given(said)}, more]
    turn = parse_messages({"model": "sonnet", "max_tokens": 9, "messages": history})
    assert _shown(turn.messages[1].content) == _given(said)["content"]


def _given(message: JSON) -> JSON:
    """The content as the SDK sends it back, without what is null."""
    blocks = [{k: v for k, v in block.items() if v is not None} for block in message["content"]]
    return {"content": blocks}


def _shown(content: Any) -> list[JSON]:
    found: list[JSON] = []
    for block in content:
        if isinstance(block, str):
            found.append({"type": "text", "text": block})
        elif isinstance(block, Thinking):
            found.append({"type": "thinking", "thinking": block.text, "signature": block.signature})
        elif isinstance(block, RedactedThinking):
            found.append({"type": "redacted_thinking", "data": block.data})
        else:
            found.append(
                {"type": "tool_use", "id": block.id, "name": block.name, "input": block.input}
            )
    return found
