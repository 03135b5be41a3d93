"""The chat answer alone: whole and streamed, it is what OpenAI's own types take."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from ccapi.schemas.convert import write_json
from ccapi.schemas.message import ToolCall
from ccapi.schemas.openai import sse
from ccapi.schemas.openai.chat_reply import (
    ChunkWriter,
    Heading,
    encode_chunk,
    encode_completion,
    encode_end,
)
from ccapi.schemas.turn import FinishReason, Reply, Usage
from ccapi.schemas.turn_items import (
    Gathering,
    ReasoningDelta,
    Refused,
    TextDelta,
    ToolCallDelta,
    ToolCallStarted,
    TurnItem,
)

HEADING = Heading("chatcmpl-1", 1_700_000_000, "sonnet", "conv_1")
USAGE = Usage(prompt_tokens=12, completion_tokens=3, cached_tokens=10, reasoning_tokens=2)
CALLS = (ToolCall("a", "look", '{"x": 1}'), ToolCall("b", "Wetter?", ""))


def reply(text: str = "", finish_reason: FinishReason = "stop", **fields: Any) -> Reply:
    return Reply(text, finish_reason, USAGE, "conv_1", "sonnet", **fields)


def completion(*replies: Reply, heading: Heading = HEADING) -> tuple[ChatCompletion, Any]:
    raw = json.loads(write_json(encode_completion(heading, replies, USAGE)))
    return ChatCompletion.model_validate_json(json.dumps(raw), strict=True), raw


def events(stream: bytes) -> list[Any]:
    """The JSON of every event; the end mark as it is."""
    *blocks, rest = stream.split(b"\n\n")
    assert rest == b""
    assert all(block.startswith(b"data: ") for block in blocks)
    payloads = [block.removeprefix(b"data: ") for block in blocks]
    return ["[DONE]" if data == b"[DONE]" else json.loads(data) for data in payloads]


def delta(item: TurnItem) -> Any:
    (raw,) = events(ChunkWriter(HEADING).item(item))
    ChatCompletionChunk.model_validate_json(json.dumps(raw), strict=True)
    assert raw["choices"][0]["finish_reason"] is None
    assert "conversation_id" not in raw
    return raw["choices"][0]["delta"]


# -- whole -----------------------------------------------------------------------------------------


def test_a_completion_is_what_openai_has() -> None:
    typed, raw = completion(reply("Hello"))
    assert (typed.id, typed.created, typed.model) == ("chatcmpl-1", 1_700_000_000, "sonnet")
    assert raw["choices"] == [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "Hello", "refusal": None},
            "logprobs": None,
            "finish_reason": "stop",
        }
    ]
    assert raw["usage"] == {
        "prompt_tokens": 12,
        "completion_tokens": 3,
        "total_tokens": 15,
        "prompt_tokens_details": {"cached_tokens": 10, "cache_write_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 2},
    }
    assert raw["conversation_id"] == "conv_1"


def test_tool_calls() -> None:
    typed, raw = completion(reply("", "tool_calls", tool_calls=CALLS))
    message = raw["choices"][0]["message"]
    assert message["content"] is None
    assert message["tool_calls"] == [
        {"id": "a", "type": "function", "function": {"name": "look", "arguments": '{"x": 1}'}},
        {"id": "b", "type": "function", "function": {"name": "Wetter?", "arguments": "{}"}},
    ]
    assert typed.choices[0].finish_reason == "tool_calls"
    _, raw = completion(reply("Let me look.", "tool_calls", tool_calls=CALLS))
    assert raw["choices"][0]["message"]["content"] == "Let me look."


@pytest.mark.parametrize(
    ("given_reply", "said"),
    [
        (reply(""), {"content": "", "refusal": None}),
        (reply("", "content_filter", refusal="No."), {"content": None, "refusal": "No."}),
        (reply("Hm", "content_filter", refusal="No."), {"content": "Hm", "refusal": "No."}),
        (
            reply("4", reasoning="2+2"),
            {"content": "4", "refusal": None, "reasoning_content": "2+2"},
        ),
    ],
)
def test_what_a_message_says(given_reply: Reply, said: dict[str, Any]) -> None:
    assert completion(given_reply)[1]["choices"][0]["message"] == {"role": "assistant", **said}


def test_several_choices() -> None:
    typed, raw = completion(
        reply("A"), reply("B", "length"), heading=Heading("chatcmpl-1", 1, "sonnet")
    )
    found = [(each.index, each.message.content, each.finish_reason) for each in typed.choices]
    assert found == [(0, "A", "stop"), (1, "B", "length")]
    assert "conversation_id" not in raw


# -- streamed --------------------------------------------------------------------------------------


def test_a_stream_is_what_openai_has() -> None:
    chunks = ChunkWriter(HEADING)
    texts = [chunks.item(TextDelta("Hel")), chunks.item(TextDelta("lo"))]
    stream = b"".join([chunks.first(), *texts, chunks.last("length"), encode_end(HEADING, USAGE)])
    *parsed, done = events(stream)
    assert done == "[DONE]"
    typed = [
        ChatCompletionChunk.model_validate_json(json.dumps(raw), strict=True) for raw in parsed
    ]
    first, hel, lo, last, bill = typed
    assert {(chunk.id, chunk.created, chunk.model) for chunk in typed} == {
        ("chatcmpl-1", 1_700_000_000, "sonnet")
    }
    assert (first.choices[0].delta.role, first.choices[0].delta.content) == ("assistant", "")
    assert [hel.choices[0].delta.content, lo.choices[0].delta.content] == ["Hel", "lo"]
    assert [c.choices[0].finish_reason for c in (first, hel, lo, last)] == [None] * 3 + ["length"]
    assert parsed[3]["choices"][0]["delta"] == {}
    assert bill.choices == []
    assert bill.usage is not None
    assert bill.usage.prompt_tokens == 12
    assert ["usage" in raw for raw in parsed] == [False] * 4 + [True]
    assert ["conversation_id" in raw for raw in parsed] == [True, False, False, True, True]


def test_usage_comes_only_when_asked_for() -> None:
    last, done = events(ChunkWriter(HEADING).last("stop") + encode_end(HEADING, None))
    assert last["choices"][0]["finish_reason"] == "stop"
    assert "usage" not in last
    assert done == "[DONE]"


@pytest.mark.parametrize(
    ("item", "expected"),
    [
        (TextDelta("Hi"), {"content": "Hi"}),
        (ReasoningDelta("Hm"), {"reasoning_content": "Hm"}),
        (Refused("No."), {"refusal": "No."}),
        (
            ToolCallStarted(1, "b", "look"),
            {
                "tool_calls": [
                    {
                        "index": 1,
                        "id": "b",
                        "type": "function",
                        "function": {"name": "look", "arguments": ""},
                    }
                ]
            },
        ),
        (
            ToolCallDelta(1, '{"x'),
            {"tool_calls": [{"index": 1, "function": {"arguments": '{"x'}}]},
        ),
    ],
)
def test_items_are_deltas(item: TurnItem, expected: dict[str, Any]) -> None:
    assert delta(item) == expected


def test_each_choice_has_its_index_and_no_conversation_has_no_field() -> None:
    heading = Heading("chatcmpl-1", 1, "sonnet")
    chunks = ChunkWriter(heading, 3)
    written = [
        chunks.first(),
        chunks.item(TextDelta("a")),
        chunks.item(Refused("b")),
        chunks.last("stop"),
    ]
    *parsed, bill, _ = events(b"".join(written) + encode_end(heading, USAGE))
    assert [chunk["choices"][0]["index"] for chunk in parsed] == [3] * 4
    assert not any("conversation_id" in chunk for chunk in (*parsed, bill))


texts = st.text(max_size=4)
fragments = st.lists(texts, max_size=3)


@given(st.lists(texts, max_size=4), st.lists(texts, max_size=2), st.lists(fragments, max_size=3))
def test_a_stream_put_together_is_the_whole_answer(
    said: list[str], thought: list[str], calls: list[list[str]]
) -> None:
    items: list[TurnItem] = [*map(ReasoningDelta, thought), *map(TextDelta, said)]
    for index, pieces in enumerate(calls):
        items.append(ToolCallStarted(index, f"call_{index}", "look"))
        items.extend(ToolCallDelta(index, piece) for piece in pieces)
    whole, got = Gathering(), Gathering()
    chunks = ChunkWriter(HEADING)
    for item in items:
        whole.add(item)
        (raw,) = events(chunks.item(item))
        add(raw["choices"][0]["delta"], got)
    assert (got.text, got.reasoning, got.tool_calls) == (
        whole.text,
        whole.reasoning,
        whole.tool_calls,
    )


def add(told: dict[str, Any], got: Gathering) -> None:
    """What a client does with a delta."""
    got.add(TextDelta(told.get("content", "")))
    got.add(ReasoningDelta(told.get("reasoning_content", "")))
    for call in told.get("tool_calls", ()):
        if "id" in call:
            got.add(ToolCallStarted(call["index"], call["id"], call["function"]["name"]))
        got.add(ToolCallDelta(call["index"], call["function"]["arguments"]))


unicode = st.text(st.characters(exclude_categories=[]))  # half surrogate pairs included


@given(text=unicode, model=st.one_of(st.text(), st.sampled_from(["", '""', '"content":""'])))
def test_a_prepared_chunk_is_byte_for_byte_the_encoded_one(text: str, model: str) -> None:
    heading = Heading("chatcmpl-1", 1_700_000_000, model, "conv_1")
    whole = sse.event(write_json(encode_chunk(heading, {"content": text}, None, 1)))
    assert ChunkWriter(heading, 1).item(TextDelta(text)) == whole


@given(unicode)
def test_an_event_is_one_line_whatever_the_text(text: str) -> None:
    for item in (TextDelta(text), ReasoningDelta(text), ToolCallDelta(0, text)):
        written = ChunkWriter(HEADING).item(item)
        assert written.count(b"\n") == 2
        assert b"\r" not in written
    mended = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    assert delta(TextDelta(text)) == {"content": mended}
