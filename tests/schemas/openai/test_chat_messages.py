"""Chat messages alone: what clients may say in them, and what it is in the gateway's words."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ccapi.schemas.errors import InvalidRequest
from ccapi.schemas.media import Attachment, Slot
from ccapi.schemas.message import Document, Image, Message, ToolCall, ToolResult
from ccapi.schemas.openai.chat import ChatTurn, parse_chat

HI = {"role": "user", "content": "Hi"}
PICTURE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA==", "detail": "low"}}
PAPER = {"type": "file", "file": {"file_data": "JVBERi0=", "filename": "a.pdf"}}
TEXT = {"type": "text", "text": "Look"}


def read(*messages: dict[str, Any], **fields: Any) -> ChatTurn:
    return parse_chat({"messages": list(messages), **fields})


def error_of(*messages: dict[str, Any], **fields: Any) -> tuple[str, str | None]:
    with pytest.raises(InvalidRequest) as caught:
        read(*messages, **fields)
    return caught.value.code, caught.value.param


def call(id: str = "a", arguments: Any = "{}", **fields: Any) -> dict[str, Any]:
    function = {"name": "look", "arguments": arguments}
    return {"id": id, "type": "function", "function": function, **fields}


def calling(*calls: dict[str, Any], content: Any = None) -> dict[str, Any]:
    return {"role": "assistant", "content": content, "tool_calls": list(calls)}


def result(id: str = "a", content: Any = "1", **fields: Any) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": id, "content": content, **fields}


def user(*parts: dict[str, Any]) -> dict[str, Any]:
    return {"role": "user", "content": list(parts)}


# -- text ------------------------------------------------------------------------------------------


def test_system_and_developer_messages_are_joined_wherever_they_stand() -> None:
    turn = read(
        {"role": "system", "content": "A"},
        HI,
        {"role": "developer", "content": [{"type": "text", "text": "B"}]},
        {"role": "assistant", "content": "Hello", "refusal": None, "tool_calls": None},
        {"role": "user", "content": "Again", "name": "ada"},
        {"role": "system", "content": "C"},
    )
    assert turn.system == "A\n\nB\n\nC"
    assert [(message.role, message.text) for message in turn.messages] == [
        ("user", "Hi"),
        ("assistant", "Hello"),
        ("user", "Again"),
    ]


def test_parts_stay_apart_as_blocks() -> None:
    turn = read(user(*({"type": "text", "text": text} for text in ("one", "", "two"))))
    assert turn.messages[0].content == ("one", "two")


def test_a_refusal_of_an_earlier_answer_is_its_text() -> None:
    refused = {"role": "assistant", "content": None, "refusal": "No."}
    part = {"role": "assistant", "content": [{"type": "refusal", "refusal": "Never."}]}
    turn = read(HI, refused, HI, part, HI)
    assert [message.text for message in turn.messages] == ["Hi", "No.", "Hi", "Never.", "Hi"]


@pytest.mark.parametrize(
    ("fields", "blocks"),
    [
        ({"content": ""}, ("",)),
        ({"content": None}, ("",)),
        ({"content": None, "tool_calls": [], "refusal": None}, ("",)),
        ({}, ("",)),
        ({"content": " \n"}, (" \n",)),
        ({"content": [{"type": "text", "text": ""}]}, ("",)),
    ],
)
def test_an_empty_answer_may_come_back(fields: dict[str, Any], blocks: tuple[str, ...]) -> None:
    assert read(HI, {"role": "assistant", **fields}, HI).messages[1] == Message("assistant", blocks)


# -- tools -----------------------------------------------------------------------------------------


def test_calls_and_results() -> None:
    arguments = '{ "city": "Köln" }'
    turn = read(
        HI,
        calling(call("a", arguments), call("b", ""), content="Let me look."),
        result("b", [{"type": "text", "text": "x"}, {"type": "text", "text": "y"}]),
        {"role": "system", "content": "S"},
        result("a", "", is_error=True),
        user(TEXT),
    )
    assert turn.messages[1:] == (
        Message(
            "assistant",
            ("Let me look.", ToolCall("a", "look", arguments), ToolCall("b", "look", "{}")),
        ),
        Message("user", (ToolResult("b", ("x", "y")), ToolResult("a", (), is_error=True))),
        Message("user", ("Look",)),
    )


@pytest.mark.parametrize("content", [None, "", []])
def test_calls_need_no_text(content: Any) -> None:
    message = calling(call(), content=content)
    if content == []:
        assert error_of(HI, message, result()) == ("invalid_value", "messages[1].content")
    else:
        assert read(HI, message, result()).messages[1].content == (ToolCall("a", "look"),)


def test_rounds_of_results_stay_apart() -> None:
    turn = read(HI, calling(call("a")), result("a"), calling(call("b")), result("b"))
    assert [len(message.results) for message in turn.messages] == [0, 0, 1, 0, 1]


def test_a_named_conversation_may_go_on_with_results_alone() -> None:
    raw = {"messages": [result("a"), result("b")]}
    both = (ToolResult("a", ("1",)), ToolResult("b", ("1",)))
    for turn in (
        parse_chat(raw, names_conversation=True),
        parse_chat({**raw, "conversation_id": "c"}),
    ):
        assert turn.messages == (Message("user", both),)
    assert error_of(*raw["messages"]) == ("unknown_tool_call_id", "messages[0]")


def test_what_stands_open_in_a_named_conversation_is_known_after_the_first_answer() -> None:
    messages = [result("x"), calling(call("a")), result("b")]
    with pytest.raises(InvalidRequest) as caught:
        parse_chat({"messages": messages}, names_conversation=True)
    assert (caught.value.code, caught.value.param) == ("missing_tool_results", "messages[2]")


S = {"role": "system", "content": "S"}
CALL_PATH = "messages[1].tool_calls[0]"


@pytest.mark.parametrize(
    ("messages", "code", "param"),
    [
        ([HI, S, calling(call()), HI], "missing_tool_results", "messages[3]"),
        (
            [HI, calling(call("a"), call("b")), S, result("b")],
            "missing_tool_results",
            "messages[3]",
        ),
        ([HI, calling(call()), result(), result("c")], "unknown_tool_call_id", "messages[2]"),
        ([HI, result()], "unknown_tool_call_id", "messages[1]"),
        ([HI, calling(call()), result(), HI, result()], "unknown_tool_call_id", "messages[4]"),
        (
            [HI, calling(call()), result(), result()],
            "duplicate_tool_call_id",
            "messages[3].tool_call_id",
        ),
        (
            [HI, calling(call(), call())],
            "duplicate_tool_call_id",
            "messages[1].tool_calls[1].id",
        ),
        ([HI, calling(call())], "invalid_value", "messages[1].role"),
        ([HI, calling(call(id=""))], "invalid_value", f"{CALL_PATH}.id"),
        ([HI, calling(call(type="custom"))], "unsupported_parameter", f"{CALL_PATH}.type"),
        ([HI, calling(call(function=None))], "missing_field", f"{CALL_PATH}.function"),
        ([HI, calling({"function": {"name": "f"}})], "missing_field", f"{CALL_PATH}.id"),
        (
            [HI, calling(call(function={"name": ""}))],
            "invalid_value",
            f"{CALL_PATH}.function.name",
        ),
        ([{**HI, "tool_calls": [call()]}], "invalid_value", "messages[0].tool_calls"),
        (
            [HI, {"role": "tool", "content": "1"}],
            "missing_field",
            "messages[1].tool_call_id",
        ),
        ([HI, calling(call()), result(content=None)], "missing_field", "messages[2].content"),
        (
            [HI, {"role": "function", "name": "f", "content": "1"}],
            "unsupported_parameter",
            "messages[1].role",
        ),
        (
            [HI, {"role": "assistant", "function_call": {"name": "f", "arguments": "{}"}}],
            "unsupported_parameter",
            "messages[1].function_call",
        ),
    ],
)
def test_calls_and_results_that_do_not_fit(
    messages: list[dict[str, Any]], code: str, param: str
) -> None:
    assert error_of(*messages) == (code, param)


@pytest.mark.parametrize(
    "arguments",
    [
        "[]",
        "null",
        "{",
        "1",
        '{"a": NaN}',
        '{"a":' * 100_000,
        "9" * 5000,
        " ",
        '{"a":' * 201 + "1" + "}" * 201,
    ],
)
def test_arguments_that_are_no_object_are_kept_as_they_are(arguments: str) -> None:
    said = read(HI, calling(call(arguments=arguments)), result()).messages
    assert said[1].calls[0].arguments == arguments


def test_ids_may_come_again_in_a_later_message() -> None:
    said = read(HI, calling(call()), result(), calling(call()), result()).messages
    assert [len(message.calls) for message in said] == [0, 1, 0, 1, 0]


def test_deep_arguments_pass() -> None:
    deep = '{"a":[' * 99 + "1" + "]}" * 99
    assert read(HI, calling(call(arguments=deep)), result()).messages[1].calls[0].arguments == deep


# -- attachments -----------------------------------------------------------------------------------


def test_attachments_stand_in_their_order_and_go_back_to_their_places() -> None:
    plain = {"type": "image_url", "image_url": "https://example.com/a.png"}
    turn = read(
        user(PICTURE),
        calling(call()),
        result("a", [TEXT, plain]),
        user(TEXT, PAPER, TEXT),
    )
    assert turn.attachments == (
        Attachment("image", "data:image/png;base64,AA==", "messages[0].content[0].image_url.url"),
        Attachment("image", "https://example.com/a.png", "messages[2].content[1].image_url"),
        Attachment("file", "JVBERi0=", "messages[3].content[1].file.file_data", "a.pdf"),
    )
    assert turn.messages[0] == Message("user", (Slot(),))
    first, second = Image("image/png", "one"), Image("image/png", "two")
    paper = Document("application/pdf", "three", "a.pdf")
    assert turn.filled((first, second, paper)) == (
        Message("user", (first,)),
        turn.messages[1],
        Message("user", (ToolResult("a", ("Look", second)),)),
        Message("user", ("Look", paper, "Look")),
    )


def test_every_attachment_needs_its_block() -> None:
    picture = Image("image/png", "one")
    for blocks in [(), (picture, picture)]:
        with pytest.raises(AssertionError):
            read(user(PICTURE)).filled(blocks)


def test_without_attachments_nothing_is_filled() -> None:
    turn = read(HI)
    assert turn.attachments == ()
    assert turn.filled(()) is turn.messages


def test_a_picture_is_enough_and_so_are_blank_words_beside_it() -> None:
    assert read(user(PICTURE)).messages == (Message("user", (Slot(),)),)
    assert read(user({"type": "text", "text": ""}, PICTURE)).messages[0].content == (Slot(),)


PART = "messages[0].content[0]"


@pytest.mark.parametrize(
    ("part", "code", "param"),
    [
        ({"type": "image_url"}, "missing_field", f"{PART}.image_url"),
        ({"type": "image_url", "image_url": {}}, "missing_field", f"{PART}.image_url.url"),
        ({"type": "image_url", "image_url": 1}, "invalid_type", f"{PART}.image_url"),
        ({"type": "image_url", "image_url": {"url": 1}}, "invalid_type", f"{PART}.image_url.url"),
        ({"type": "file"}, "missing_field", f"{PART}.file"),
        ({"type": "file", "file": {}}, "missing_field", f"{PART}.file.file_data"),
        (
            {"type": "file", "file": {"file_id": "f", "file_data": "aGk="}},
            "invalid_value",
            f"{PART}.file.file_id",
        ),
        ({"type": "input_audio", "input_audio": {}}, "unsupported_parameter", PART),
        ({"type": "hologram"}, "invalid_value", f"{PART}.type"),
        ({"type": "refusal", "refusal": "x"}, "invalid_value", f"{PART}.type"),
        ({"type": "text"}, "missing_field", f"{PART}.text"),
    ],
)
def test_parts_that_do_not_fit(part: dict[str, Any], code: str, param: str) -> None:
    assert error_of(user(part)) == (code, param)


@pytest.mark.parametrize("role", ["system", "developer", "assistant"])
@pytest.mark.parametrize("part", [PICTURE, PAPER])
def test_only_users_and_tools_show_pictures(role: str, part: dict[str, Any]) -> None:
    assert error_of({"role": role, "content": [part]}, HI) == (
        "invalid_value",
        "messages[0].content[0].type",
    )


# -- any history -----------------------------------------------------------------------------------

words = st.text(min_size=1, max_size=5).filter(lambda text: text.strip("\ufeff \t\n").strip() != "")
rounds = st.lists(st.tuples(words, st.lists(words, max_size=3), words), max_size=4)


@given(rounds)
def test_nothing_in_a_history_is_lost_or_moved(told: list[tuple[str, list[str], str]]) -> None:
    """Each round: a question, the results of calls, an answer."""
    given_messages: list[dict[str, Any]] = []
    expected: list[Message] = []
    for number, (question, results, answer) in enumerate(told):
        ids = [f"{number}-{index}" for index in range(len(results))]
        given_messages.append({"role": "user", "content": question})
        expected.append(Message("user", (question,)))
        if ids:
            arguments = [json.dumps({"q": text}) for text in results]
            given_messages.append(calling(*map(call, ids, arguments)))
            given_messages.extend(map(result, ids, results))
            calls = zip(ids, arguments, strict=True)
            expected.append(
                Message("assistant", tuple(ToolCall(id, "look", text) for id, text in calls))
            )
            told_back = zip(ids, results, strict=True)
            expected.append(
                Message("user", tuple(ToolResult(id, (text,)) for id, text in told_back))
            )
        given_messages.append({"role": "assistant", "content": answer})
        expected.append(Message("assistant", (answer,)))
    turn = read(*given_messages, HI)
    assert turn.messages == (*expected, Message("user", ("Hi",)))
