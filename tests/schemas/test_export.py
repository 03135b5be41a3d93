"""What is exported can be imported: the same messages, byte for byte."""

from __future__ import annotations

import base64
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from ccapi.schemas.convert import structure
from ccapi.schemas.export import encode_chat_messages, encode_markdown
from ccapi.schemas.message import Document, Image, Message, ToolCall, ToolResult
from ccapi.schemas.openai.chat_messages import ChatMessage, read_history

DATA = base64.b64encode(b"\x89PNG\r\n").decode()
TEXTS = st.text(st.characters(codec="utf-8"), min_size=1, max_size=30).filter(str.strip)
"""Messages that say nothing do not come back, as in every chat request."""


def given_back(messages: list[dict[str, Any]]) -> tuple[Message, ...]:
    history = read_history(tuple(structure(each, ChatMessage) for each in messages))
    assert not history.attachments
    return history.messages


@given(st.lists(st.tuples(TEXTS, TEXTS), max_size=5), TEXTS)
def test_texts_come_back(turns: list[tuple[str, str]], system: str) -> None:
    said = [
        message
        for question, answer in turns
        for message in (Message("user", (question,)), Message("assistant", (answer,)))
    ]
    encoded = encode_chat_messages(said, system)
    assert encoded[0] == {"role": "system", "content": system}
    assert given_back(encoded) == tuple(said)


def test_calls_and_their_results_come_back() -> None:
    calls = (ToolCall("a", "look", '{"x": 1}'), ToolCall("b", "look", "{}"))
    said = (
        Message("user", ("Look.", "Twice.")),
        Message("assistant", ("I look.", *calls)),
        Message("user", (ToolResult("a", ("sun",)), ToolResult("b", ("no",), is_error=True))),
        Message("assistant", ("Sun.",)),
    )
    encoded = encode_chat_messages(said)
    assert [each["role"] for each in encoded] == ["user", "assistant", "tool", "tool", "assistant"]
    assert encoded[0]["content"] == [
        {"type": "text", "text": "Look."},
        {"type": "text", "text": "Twice."},
    ]
    assert encoded[3] == {"role": "tool", "tool_call_id": "b", "content": "no", "is_error": True}
    assert given_back(encoded) == said


def test_a_call_alone_has_no_content() -> None:
    [encoded] = encode_chat_messages([Message("assistant", (ToolCall("a", "look", "{}"),))])
    assert encoded["content"] is None


def test_results_and_a_question_are_parted_as_chat_has_it() -> None:
    said = Message("user", (ToolResult("a", ("sun",)), "And now?"))
    assert [each["role"] for each in encode_chat_messages([said])] == ["tool", "user"]


def test_pictures_and_files_are_given_whole() -> None:
    said = Message(
        "user", ("See.", Image("image/png", DATA), Document("text/plain", DATA, "a.txt"))
    )
    [encoded] = encode_chat_messages([said])
    assert encoded["content"][1:] == [
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{DATA}"}},
        {
            "type": "file",
            "file": {"filename": "a.txt", "file_data": f"data:text/plain;base64,{DATA}"},
        },
    ]


def test_markdown_is_for_people() -> None:
    said = (
        Message("user", ("Look.", Image("image/png", DATA))),
        Message("assistant", (ToolCall("a", "look", '{"x": "```"}'),)),
        Message("user", (ToolResult("a", ("sun",), is_error=True),)),
    )
    text = encode_markdown(said, "Two\nlines", "Be brief.")
    assert text == (
        "# Two lines\n\n## System\n\nBe brief.\n\n"
        "## User\n\nLook.\n\n*(a picture: image/png)*\n\n"
        '## Assistant\n\n*Calls the tool `look`:*\n\n````json\n{"x": "```"}\n````\n\n'
        "## User\n\n*The tool failed:*\n\n```\nsun\n```\n"
    )
