"""The chat schema alone: what requests may say, and that answers are what OpenAI's types take."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pytest
from attrs import frozen
from hypothesis import given
from hypothesis import strategies as st
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from ccapi.schemas import sse
from ccapi.schemas.chat import ChatTurn, one_conversation, parse_chat
from ccapi.schemas.chat_reply import ChunkWriter, Heading, encode_chunk, encode_completion
from ccapi.schemas.convert import read_json, structure, write_json
from ccapi.schemas.errors import InvalidRequest
from ccapi.schemas.turn import Message, Usage

HEADING = Heading("chatcmpl-1", 1_700_000_000, "sonnet", "conv_1")
USAGE = Usage(prompt_tokens=12, completion_tokens=3, cached_tokens=10)
HI = {"role": "user", "content": "Hi"}


def parse(**fields: Any) -> ChatTurn:
    return parse_chat({"messages": [HI], **fields})


def refusal(raw: Any) -> tuple[str, str | None]:
    with pytest.raises(InvalidRequest) as caught:
        parse_chat(raw)
    assert caught.value.status == 400
    return caught.value.code, caught.value.param


# -- requests --------------------------------------------------------------------------------------


def test_the_smallest_request() -> None:
    turn = parse()
    assert turn.messages == (Message("user", ("Hi",)),)
    assert turn.model is turn.system is turn.conversation_id is None
    assert not turn.stream
    assert not turn.include_usage
    assert turn.shaping == {}
    assert turn.ignored == ()


def test_system_and_developer_messages_are_joined_wherever_they_stand() -> None:
    turn = parse(
        messages=[
            {"role": "system", "content": "A"},
            HI,
            {"role": "developer", "content": [{"type": "text", "text": "B"}]},
            {"role": "assistant", "content": "Hello", "refusal": None, "tool_calls": None},
            {"role": "user", "content": "Again", "name": "ada"},
            {"role": "system", "content": "C"},
        ]
    )
    assert turn.system == "A\n\nB\n\nC"
    assert [(message.role, message.text) for message in turn.messages] == [
        ("user", "Hi"),
        ("assistant", "Hello"),
        ("user", "Again"),
    ]


def test_parts_stay_apart_as_blocks() -> None:
    parts = [{"type": "text", "text": text} for text in ("one", "", "two")]
    turn = parse(messages=[{"role": "user", "content": parts}])
    assert turn.messages[0].content == ("one", "two")


def test_a_refusal_of_an_earlier_answer_is_its_text() -> None:
    refused = {"role": "assistant", "content": None, "refusal": "No."}
    part = {"role": "assistant", "content": [{"type": "refusal", "refusal": "Never."}]}
    turn = parse(messages=[HI, refused, HI, part, HI])
    assert [message.text for message in turn.messages] == ["Hi", "No.", "Hi", "Never.", "Hi"]


def test_null_means_absent_and_unknown_fields_are_ignored() -> None:
    given_fields = dict.fromkeys(
        ["model", "stream", "stream_options", "temperature", "stop", "n", "tools", "tool_choice",
         "response_format", "conversation", "conversation_id", "metadata", "logprobs"]
    )  # fmt: skip
    assert parse(**given_fields, from_the_future={"x": [1]}) == parse()


def test_harmless_values_of_unsupported_fields_pass() -> None:
    turn = parse(
        n=1, logprobs=False, top_logprobs=0, logit_bias={}, response_format={"type": "text"},
        tools=[], tool_choice="auto", functions=[], function_call="none", modalities=["text"],
    )  # fmt: skip
    assert turn == parse()


def test_what_reaches_nobody_is_named() -> None:
    turn = parse(temperature=1, top_p=0.5, stop=["a", "b"], max_tokens=5, user="u", metadata={})
    assert turn.ignored == ("temperature", "top_p", "stop", "max_tokens", "user", "metadata")
    assert turn.shaping == {"temperature": 1, "top_p": 0.5, "stop": ("a", "b"), "max_tokens": 5}


def test_include_usage() -> None:
    assert parse(stream=True, stream_options={"include_usage": True}).include_usage
    assert not parse(stream=True, stream_options={"include_usage": None}).include_usage


@pytest.mark.parametrize(
    "fields",
    [{"conversation_id": "c"}, {"conversation": "c"}, {"conversation": {"id": "c"}}],
)
def test_a_conversation_may_be_named_in_three_ways(fields: dict[str, Any]) -> None:
    assert parse(**fields).conversation_id == "c"


def test_two_names_for_the_conversation_must_agree() -> None:
    assert parse(conversation_id="c", conversation={"id": "c"}).conversation_id == "c"
    raw: dict[str, Any] = {"messages": [HI], "conversation_id": "c", "conversation": "d"}
    assert refusal(raw) == ("invalid_value", "conversation")
    assert refusal(raw | {"conversation": {"id": "d"}}) == ("invalid_value", "conversation.id")
    assert one_conversation({"a": None, "b": "x"}) == "x"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"conversation_id": ""}, "conversation_id"),
        ({"conversation": ""}, "conversation"),
        ({"conversation": {"id": ""}}, "conversation.id"),
        ({"conversation_id": "c", "conversation": ""}, "conversation"),
    ],
)
def test_no_conversation_has_an_empty_name(fields: dict[str, Any], param: str) -> None:
    assert refusal({"messages": [HI], **fields}) == ("invalid_value", param)


@pytest.mark.parametrize(
    ("fields", "blocks"),
    [
        ({"content": ""}, ("",)),
        ({"content": None}, ("",)),
        ({"content": None, "tool_calls": None, "refusal": None}, ("",)),
        ({}, ("",)),
        ({"content": " \n"}, (" \n",)),
        ({"content": [{"type": "text", "text": ""}]}, ("",)),
    ],
)
def test_an_empty_answer_may_come_back(fields: dict[str, Any], blocks: tuple[str, ...]) -> None:
    asked = parse(messages=[HI, {"role": "assistant", **fields}, HI])
    assert asked.messages[1] == Message("assistant", blocks)


def message(**fields: Any) -> dict[str, Any]:
    return {"messages": [HI, {"role": "user", "content": "x"} | fields]}


@pytest.mark.parametrize(
    ("raw", "code", "param"),
    [
        ([], "invalid_type", None),
        ("text", "invalid_type", None),
        ({}, "missing_field", "messages"),
        ({"messages": None}, "invalid_type", "messages"),
        ({"messages": "Hi"}, "invalid_type", "messages"),
        ({"messages": {}}, "invalid_type", "messages"),
        ({"messages": []}, "invalid_value", "messages"),
        ({"messages": ["Hi"]}, "invalid_type", "messages[0]"),
        ({"messages": [{"content": "x"}]}, "missing_field", "messages[0].role"),
        ({"messages": [HI, {"role": 1}]}, "invalid_type", "messages[1].role"),
        ({"messages": [{"role": "system", "content": "x"}]}, "invalid_value", "messages"),
        (message(role="robot"), "invalid_value", "messages[1].role"),
        (message(role="tool"), "unsupported_parameter", "messages[1].role"),
        (message(role="function"), "unsupported_parameter", "messages[1].role"),
        (message(role="assistant"), "invalid_value", "messages[1].role"),
        (message(role="assistant", content=None), "invalid_value", "messages[1].role"),
        (message(role="assistant", content=[]), "invalid_value", "messages[1].content"),
        (
            message(role="assistant", content=None, tool_calls=[{"id": "c"}]),
            "unsupported_parameter",
            "messages[1].tool_calls",
        ),
        (message(content=None), "missing_field", "messages[1].content"),
        (message(content=1), "invalid_type", "messages[1].content"),
        (message(content={"text": "x"}), "invalid_type", "messages[1].content"),
        (message(content=""), "empty_content", "messages[1].content"),
        (message(content=" \n"), "empty_content", "messages[1].content"),
        (message(content=[]), "invalid_value", "messages[1].content"),
        (message(content=["x"]), "invalid_type", "messages[1].content[0]"),
        (message(content=[{"text": "x"}]), "missing_field", "messages[1].content[0].type"),
        (message(content=[{"type": "text"}]), "missing_field", "messages[1].content[0].text"),
        (
            message(content=[{"type": "text", "text": "a"}, {"type": "text", "text": 2}]),
            "invalid_type",
            "messages[1].content[1].text",
        ),
        (
            message(content=[{"type": "image_url", "image_url": {"url": "data:,"}}]),
            "unsupported_parameter",
            "messages[1].content[0]",
        ),
        (
            message(content=[{"type": "refusal", "refusal": "x"}]),
            "invalid_value",
            "messages[1].content[0].type",
        ),
        (message(name=1), "invalid_type", "messages[1].name"),
    ],
)
def test_messages_that_cannot_be_asked(raw: Any, code: str, param: str | None) -> None:
    assert refusal(raw) == (code, param)


@pytest.mark.parametrize(
    ("name", "value", "code"),
    [
        ("model", 1, "invalid_type"),
        ("stream", 1, "invalid_type"),
        ("stream", "true", "invalid_type"),
        ("stream_options", [], "invalid_type"),
        ("temperature", "1", "invalid_type"),
        ("temperature", True, "invalid_type"),
        ("temperature", 2.1, "invalid_value"),
        ("top_p", -0.1, "invalid_value"),
        ("presence_penalty", 3, "invalid_value"),
        ("max_tokens", 1.0, "invalid_type"),
        ("max_tokens", 0, "invalid_value"),
        ("max_completion_tokens", -1, "invalid_value"),
        ("seed", "7", "invalid_type"),
        ("stop", 1, "invalid_type"),
        ("stop", ["a"] * 5, "invalid_value"),
        ("metadata", [], "invalid_type"),
        ("user", 5, "invalid_type"),
        ("conversation_id", 5, "invalid_type"),
        ("n", 2, "unsupported_parameter"),
        ("logprobs", True, "unsupported_parameter"),
        ("top_logprobs", 2, "unsupported_parameter"),
        ("logit_bias", {"50256": -100}, "unsupported_parameter"),
        ("response_format", {"type": "json_object"}, "unsupported_parameter"),
        ("tools", [{"type": "function"}], "unsupported_parameter"),
        ("tool_choice", "required", "unsupported_parameter"),
        ("tool_choice", {"type": "function"}, "unsupported_parameter"),
        ("functions", [{"name": "f"}], "unsupported_parameter"),
        ("modalities", ["text", "audio"], "unsupported_parameter"),
        ("audio", {"voice": "alloy"}, "unsupported_parameter"),
        ("web_search_options", {}, "unsupported_parameter"),
    ],
)
def test_fields_that_do_not_fit(name: str, value: Any, code: str) -> None:
    assert refusal({"messages": [HI], name: value}) == (code, name)


def test_paths_go_on_into_objects_and_arrays() -> None:
    base = {"messages": [HI]}
    assert refusal(base | {"stop": ["a", 1]}) == ("invalid_type", "stop[1]")
    assert refusal(base | {"conversation": {}}) == ("missing_field", "conversation.id")
    options = {"stream_options": {"include_usage": "yes"}}
    assert refusal(base | options) == ("invalid_type", "stream_options.include_usage")


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
FIELDS = ["messages", "model", "stream", "stream_options", "stop", "conversation", "n", "tools",
          "temperature", "max_tokens", "response_format", "tool_choice", "modalities"]  # fmt: skip


@given(
    st.dictionaries(st.sampled_from(FIELDS), anything),
    st.lists(st.dictionaries(st.sampled_from(["role", "content", "name", "refusal"]), anything)),
)
def test_no_json_value_is_more_than_refused(
    fields: dict[str, Any], messages: list[dict[str, Any]]
) -> None:
    for raw in (fields, {"messages": messages}, {"messages": messages, **fields}):
        with suppress(InvalidRequest):
            parse_chat(raw)


@frozen
class Sample:
    whole: int
    exact: float
    flag: bool


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"whole": True}, "whole"),
        ({"whole": 1.0}, "whole"),
        ({"whole": "1"}, "whole"),
        ({"whole": None}, "whole"),
        ({"exact": False}, "exact"),
        ({"exact": "1"}, "exact"),
        ({"flag": 1}, "flag"),
        ({"flag": "true"}, "flag"),
    ],
)
def test_values_are_never_made_to_fit(fields: dict[str, Any], param: str) -> None:
    fitting = {"whole": 1, "exact": 1, "flag": True}
    assert structure(fitting, Sample) == Sample(1, 1.0, True)
    with pytest.raises(InvalidRequest) as caught:
        structure(fitting | fields, Sample)
    assert (caught.value.code, caught.value.param) == ("invalid_type", param)


# -- JSON in and out -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body", [b"", b"{", b"\xff", b'{"a": NaN}', b"[" * 5000, rb'{"a": "\ud800"}', b"\xef\xbb\xbf{}"]
)
def test_bodies_that_are_no_json(body: bytes) -> None:
    with pytest.raises(InvalidRequest) as caught:
        read_json(body)
    assert caught.value.code == "invalid_json"


def test_nul_passes_as_text() -> None:
    raw = read_json(rb'{"messages": [{"role": "user", "content": "a\u0000b"}]}')
    assert parse_chat(raw).messages[0].text == "a\0b"


def test_half_a_surrogate_pair_leaves_as_a_replacement_character() -> None:
    assert json.loads(write_json({"a": "x\ud800y", "b": "\ude00"})) == {"a": "x�y", "b": "�"}
    assert json.loads(write_json("\ud83d\ude00")) == "\N{GRINNING FACE}"


def test_what_is_no_json_at_all_is_still_a_fault() -> None:
    with pytest.raises(TypeError):
        write_json({"a": object()})


# -- answers ---------------------------------------------------------------------------------------


def events(stream: bytes) -> list[Any]:
    """The JSON of every event; the end mark as it is."""
    *blocks, rest = stream.split(b"\n\n")
    assert rest == b""
    assert all(block.startswith(b"data: ") for block in blocks)
    payloads = [block.removeprefix(b"data: ") for block in blocks]
    return ["[DONE]" if data == b"[DONE]" else json.loads(data) for data in payloads]


def test_a_completion_is_what_openai_has() -> None:
    raw = encode_completion(HEADING, "Hello", "stop", USAGE)
    completion = ChatCompletion.model_validate_json(write_json(raw), strict=True)
    assert completion.choices[0].message.content == "Hello"
    assert completion.choices[0].finish_reason == "stop"
    assert completion.usage is not None
    assert completion.usage.total_tokens == 15
    assert completion.usage.prompt_tokens_details is not None
    assert completion.usage.prompt_tokens_details.cached_tokens == 10
    assert raw["conversation_id"] == "conv_1"


def test_a_stream_is_what_openai_has() -> None:
    chunks = ChunkWriter(HEADING)
    stream = b"".join([chunks.first(), chunks.text("Hel"), chunks.text("lo")])
    *parsed, done = events(stream + chunks.last("length", USAGE))
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
    last, done = events(ChunkWriter(HEADING).last("stop", None))
    assert last["choices"][0]["finish_reason"] == "stop"
    assert "usage" not in last
    assert done == "[DONE]"


unicode = st.text(st.characters(exclude_categories=[]))  # half surrogate pairs included


@given(text=unicode, model=st.one_of(st.text(), st.sampled_from(["", '""', '"content":""'])))
def test_a_prepared_chunk_is_byte_for_byte_the_encoded_one(text: str, model: str) -> None:
    heading = Heading("chatcmpl-1", 1_700_000_000, model, "conv_1")
    whole = sse.event(write_json(encode_chunk(heading, {"content": text})))
    assert ChunkWriter(heading).text(text) == whole


@given(unicode)
def test_an_event_is_one_line_whatever_the_text(text: str) -> None:
    written = ChunkWriter(HEADING).text(text)
    assert written.count(b"\n") == 2
    assert b"\r" not in written
    content = events(written)[0]["choices"][0]["delta"]["content"]
    mended = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    assert content == mended
