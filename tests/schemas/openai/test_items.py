"""OpenAI's items: what they say, and how they are written."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ccapi.schemas.convert import structure
from ccapi.schemas.errors import InvalidRequest
from ccapi.schemas.media import Slot
from ccapi.schemas.message import Document, Image, Message, ToolCall, ToolResult, digest, is_blank
from ccapi.schemas.openai.chat_messages import History
from ccapi.schemas.openai.foreign_items import MAX_ITEMS, MAX_PARTS, take_items
from ccapi.schemas.openai.items import InputItem, read_items
from ccapi.schemas.openai.output_items import encode_messages

from ...support.responses import check_item, user

TURN = "0e8dbd39-f99c-49ed-af4a-a6b7d1a73ad6"
HI = user("Hi")
CALL = {"type": "function_call", "call_id": "c1", "name": "f", "arguments": '{"a":1}'}
PART = {"type": "text", "text": "d"}
IMAGE = Image("image/png", "AAAA")
RESULT = {"type": "function_call_output", "call_id": "c1", "output": "done"}


def read(items: Any, *, continues: bool = False) -> tuple[Message, ...]:
    return history(items, continues=continues).messages


def history(items: Any, *, continues: bool = False) -> History:
    items = take_items(items).items
    given = items if isinstance(items, str) else structure_items(items)
    return read_items(given, continues=continues).history


def structure_items(items: list[Any]) -> tuple[InputItem, ...]:
    return tuple(structure(item, InputItem) for item in items)


def error_of(*items: Any, continues: bool = False) -> tuple[str, str | None]:
    with pytest.raises(InvalidRequest) as caught:
        history([*items], continues=continues)
    assert caught.value.status == 400
    return caught.value.code, caught.value.param


# -- what they say ---------------------------------------------------------------------------------


def test_a_string_is_what_the_user_says() -> None:
    assert read("Hi") == (Message("user", ("Hi",)),)


def test_messages_in_every_form() -> None:
    items = [
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "a"}]},
        {"role": "assistant", "content": [{"type": "output_text", "text": "b", "annotations": []}]},
        {"role": "user", "content": [{"type": "input_text", "text": "c"}, PART]},
        {"role": "assistant", "content": "e", "id": "msg_1", "status": "completed"},
        {"role": "user", "content": "f"},
    ]  # fmt: skip
    assert read(items) == (
        Message("user", ("a",)),
        Message("assistant", ("b",)),
        Message("user", ("c", "d")),
        Message("assistant", ("e",)),
        Message("user", ("f",)),
    )


def test_system_and_developer_messages_are_the_system_text_wherever_they_stand() -> None:
    found = history(
        [
            {"role": "developer", "content": "One."},
            HI,
            {"role": "system", "content": [{"type": "input_text", "text": "Two."}]},
        ]
    )
    assert found.system == "One.\n\nTwo."
    assert found.messages == (Message("user", ("Hi",)),)
    assert history([HI]).system is None


def test_the_items_of_one_answer_are_one_message() -> None:
    """So that it is recognised as the answer that it was, whatever an agent did in between."""
    items = [
        HI,
        {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "?"}]},
        {"role": "assistant", "content": [{"type": "output_text", "text": "Let me "}]},
        {"type": "mcp_call", "id": "m", "name": "Bash", "arguments": "{}", "server_label": "x"},
        {"role": "assistant", "content": [{"type": "output_text", "text": "see."}]},
        CALL,
        {"type": "function_call", "call_id": "c2", "name": "g", "arguments": ""},
        RESULT,
        {"type": "function_call_output", "call_id": "c2", "output": []},
    ]
    _, answer, results = read(items)
    call = ToolCall("c1", "f", '{"a":1}')
    assert answer == Message("assistant", ("Let me ", "see.", call, ToolCall("c2", "g", "{}")))
    told = Message("assistant", ("Let me see.", call, ToolCall("c2", "g", "{}")))
    assert digest(answer) == digest(told)
    assert results == Message("user", (ToolResult("c1", ("done",)), ToolResult("c2", ())))


def test_a_text_behind_the_calls_of_an_answer_stands_before_them() -> None:
    items = [HI, CALL, {"role": "assistant", "content": "So."}, RESULT]
    assert read(items)[1].content == ("So.", ToolCall("c1", "f", '{"a":1}'))


def test_an_answer_may_be_empty() -> None:
    items = [HI, {"role": "assistant", "content": ""}, user("Again")]
    assert read(items)[1] == Message("assistant", ("",))


def test_a_refusal_is_what_the_model_said() -> None:
    items = [HI, {"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]}, HI]
    assert read(items)[1].text == "No."


def test_a_result_may_have_parts_and_may_have_failed() -> None:
    url = "data:image/png;base64,AAAA"
    parts = [{"type": "input_text", "text": "see"}, {"type": "input_image", "image_url": url}]
    items = [HI, CALL, RESULT | {"output": parts, "is_error": True}]
    found = history(items)
    assert found.messages[-1] == Message("user", (ToolResult("c1", ("see", Slot()), True),))
    [attachment] = found.attachments
    assert (attachment.kind, attachment.path) == ("image", "input[2].output[1].image_url")


def test_images_and_files_have_their_places() -> None:
    content = [
        {"type": "input_image", "image_url": "https://example.org/a.png", "detail": "high"},
        {"type": "input_text", "text": "and"},
        {"type": "input_file", "file_data": "JVBERi0=", "filename": "a.pdf"},
        {"type": "input_file", "file_url": "https://example.org/b.pdf"},
    ]
    found = history([{"role": "user", "content": content}])
    assert found.messages == (Message("user", (Slot(), "and", Slot(), Slot())),)
    assert [(a.kind, a.source, a.path, a.name) for a in found.attachments] == [
        ("image", "https://example.org/a.png", "input[0].content[0].image_url", None),
        ("file", "JVBERi0=", "input[0].content[2].file_data", "a.pdf"),
        ("file", "https://example.org/b.pdf", "input[0].content[3].file_url", None),
    ]


def test_a_request_that_goes_on_may_begin_with_results() -> None:
    assert read([RESULT], continues=True) == (Message("user", (ToolResult("c1", ("done",)),)),)
    assert error_of(RESULT) == ("unknown_tool_call_id", "input[0]")


@pytest.mark.parametrize(
    ("items", "code", "param"),
    [
        ([], "invalid_value", "input"),
        ([{"role": "developer", "content": " "}], "empty_content", "input[0].content"),
        ([HI, CALL], "invalid_value", "input[1]"),
        ([user("  ")], "empty_content", "input[0].content"),
        ([{"role": "user"}], "missing_field", "input[0].content"),
        ([{"content": "x"}], "missing_field", "input[0].role"),
        ([{"role": "user", "content": []}], "invalid_value", "input[0].content"),
        ([{"role": "robot", "content": "x"}], "invalid_value", "input[0].role"),
        ([{"type": "compaction"}], "missing_field", "input[0].encrypted_content"),
        ([{"type": "mesage", "output": {}}], "unsupported_parameter", "input[0].type"),
        ([HI, CALL, HI], "missing_tool_results", "input[2]"),
        ([HI, CALL, CALL], "duplicate_tool_call_id", "input[2].call_id"),
        ([HI, CALL, RESULT, RESULT], "duplicate_tool_call_id", "input[3].call_id"),
        ([HI, CALL, RESULT | {"call_id": "c9"}], "missing_tool_results", "input[2]"),
        ([{"type": "function_call", "name": "f"}], "missing_field", "input[0].call_id"),
        ([{"type": "function_call", "call_id": "c", "name": ""}], "invalid_value", "input[0].name"),
        ([HI, CALL, RESULT | {"call_id": None}], "missing_field", "input[2].call_id"),
        ([HI, CALL, RESULT | {"output": None}], "missing_field", "input[2].output"),
    ],
)  # fmt: skip
def test_what_cannot_be_asked(items: list[Any], code: str, param: str) -> None:
    assert error_of(*items) == (code, param)


@pytest.mark.parametrize(
    ("part", "code", "param"),
    [
        ({"type": "input_image"}, "missing_field", ".image_url"),
        (
            {"type": "input_image", "file_id": "file_1", "image_url": "data:,"},
            "invalid_value",
            ".file_id",
        ),
        ({"type": "input_file"}, "missing_field", ".file_data"),
        (
            {"type": "input_file", "file_id": "file_1", "file_data": "aGk="},
            "invalid_value",
            ".file_id",
        ),
        ({"type": "input_audio"}, "unsupported_parameter", ""),
        ({"type": "input_text"}, "missing_field", ".text"),
        ({"type": "output_text", "text": "x"}, "invalid_value", ".type"),
    ],
)
def test_parts_that_a_user_cannot_send(part: dict[str, Any], code: str, param: str) -> None:
    path = f"input[0].content[0]{param}"
    assert error_of({"role": "user", "content": [part]}) == (code, path)


def test_an_answer_has_no_images() -> None:
    part = {"type": "input_image", "image_url": "x"}
    item = {"role": "assistant", "content": [part]}
    assert error_of(item) == ("invalid_value", "input[0].content[0].type")


def test_what_would_take_long_to_read_is_refused_before_it_is() -> None:
    assert error_of(*[HI] * (MAX_ITEMS + 1)) == ("invalid_value", "input")
    many = {"role": "user", "content": [{"type": "input_text", "text": "x"}] * (MAX_PARTS + 1)}
    assert error_of(many) == ("invalid_value", "input")


# -- how they are written --------------------------------------------------------------------------


def test_what_was_asked_as_items() -> None:
    messages = [
        Message("user", ("Look", IMAGE, Document("text/plain", "QQ==", "a.txt"))),
        Message("assistant", ("Well", ToolCall("c1", "f", "{}"))),
        Message("user", (ToolResult("c1", ("a", "b")), "Go on")),
        Message("assistant", ("",)),
        Message("user", (ToolResult("c2", ("a", IMAGE), True),)),
    ]  # fmt: skip
    items = encode_messages(messages, TURN, system="Be brief.")
    for item in items:
        check_item(item)
    assert [item["id"] for item in items] == [
        f"in_{TURN.replace('-', '')}_{index}" for index in range(8)
    ]
    assert [item["type"] for item in items] == [
        "message", "message", "message", "function_call", "function_call_output", "message",
        "message", "function_call_output",
    ]  # fmt: skip
    assert items[0]["role"] == "system"
    assert items[1]["content"] == [
        {"type": "input_text", "text": "Look"},
        {"type": "input_image", "image_url": "data:image/png;base64,AAAA", "detail": "auto"},
        {"type": "input_file", "file_data": "data:text/plain;base64,QQ==", "filename": "a.txt"},
    ]
    assert (items[4]["output"], items[7]["is_error"]) == ("ab", True)


text = st.text(min_size=1).filter(lambda said: not is_blank(said))
ids = st.uuids().map(str)


@st.composite
def conversations(draw: st.DrawFn) -> list[Message]:
    """Turns of a conversation, ending with what the user says, without attachments."""
    messages = []
    open_calls: list[str] = []
    for _ in range(draw(st.integers(1, 4))):
        results = tuple(ToolResult(call, (draw(text),)) for call in open_calls)
        messages.append(Message("user", results or (draw(text),)))
        open_calls = draw(st.lists(ids, max_size=2, unique=True))
        calls = tuple(ToolCall(call, "f", "{}") for call in open_calls)
        said = (draw(text),) if not calls or draw(st.booleans()) else ()
        messages.append(Message("assistant", (*said, *calls)))
    return [*messages[:-1]]


@given(conversations())
def test_what_is_written_is_read_as_the_same(messages: list[Message]) -> None:
    items = encode_messages(messages, TURN)
    for item in items:
        check_item(item)
    again = read(items, continues=True)
    assert [*map(digest, again)] == [*map(digest, messages)]
