"""Pictures and documents in what the user says: what reaches the API of them, and what beside."""

import base64
from typing import Any

import pytest

from tests.support.logins import every_login
from tests.support.messages_stub import MessagesStub
from tests.support.raw_cli import Frame, RawCli, assistant_frame, is_result, user_frame

PNG = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5E"
    "rkJggg=="
)
PDF = base64.b64encode(b"%PDF-1.4\n1 0 obj<</Type/Catalog>>endobj\ntrailer<</Root 1 0 R>>").decode()


def text(said: str) -> Frame:
    return {"type": "text", "text": said}


def image(media_type: str = "image/png", data: str = PNG) -> Frame:
    return {
        "type": "image",
        "source": {"type": "base64", "media_type": media_type, "data": data},
    }


def last_user_content(stub: MessagesStub) -> list[Any]:
    """The blocks of the last user message, without what the CLI notes for the API's cache, and what
    it says itself where the login is a subscription's."""
    content = stub.requests[-1].body["messages"][-1]["content"]
    return [
        {name: value for name, value in block.items() if name != "cache_control"}
        for block in content
        if not str(block.get("text")).startswith("<system-reminder>")
    ]


def is_source(block: Frame) -> bool:
    """Whether the block is the CLI's own, which says where it keeps a picture."""
    return str(block.get("text")).startswith("[Image: source: ")


@every_login
async def test_a_picture_arrives_whole_and_a_text_behind_the_message_names_its_file(
    child: RawCli, stub: MessagesStub
) -> None:
    await child.turn([text("first"), image(), text("between"), image()])
    *blocks, one, two = last_user_content(stub)
    assert blocks == [text("first"), image(), text("between"), image()]
    assert is_source(one)
    assert is_source(two)


async def test_text_that_ends_a_message_with_a_picture_gains_a_newline(
    child: RawCli, stub: MessagesStub
) -> None:
    """Unless an empty block stands behind it."""
    await child.turn([image(), text("what is it?")])
    assert last_user_content(stub)[:-1] == [image(), text("what is it?\n")]
    await child.turn([image(), text("what is it?"), text("")])
    assert last_user_content(stub)[:-1] == [image(), text("what is it?")]


@pytest.mark.parametrize(
    "block",
    [
        {"type": "image", "source": {"type": "url", "url": "https://example.invalid/x.png"}},
        {
            "type": "document",
            "source": {"type": "base64", "media_type": "application/pdf", "data": PDF},
            "title": "a.pdf",
        },
        {
            "type": "document",
            "source": {"type": "text", "media_type": "text/plain", "data": "plain"},
            "title": "a.txt",
        },
    ],
    ids=["image by url", "pdf", "text"],
)
async def test_what_passes_untouched_and_alone(
    block: Frame, child: RawCli, stub: MessagesStub
) -> None:
    await child.turn([block, text("read")])
    assert last_user_content(stub) == [block, text("read")]


async def test_a_wrong_media_type_is_put_right(child: RawCli, stub: MessagesStub) -> None:
    await child.turn([image("image/webp"), text("x")])
    assert last_user_content(stub)[0] == image("image/png")


async def test_what_is_no_picture_becomes_a_text_that_says_so(
    child: RawCli, stub: MessagesStub
) -> None:
    await child.turn([image(data="AAAA"), text("x")])
    blocks = last_user_content(stub)
    assert blocks[0]["text"].startswith("[Image could not be processed")
    assert blocks[1:] == [text("x")]


async def test_pictures_in_the_history_arrive_as_they_do_in_a_turn(
    child: RawCli, stub: MessagesStub
) -> None:
    """In a tool's result they gain no text: that is for a message's own blocks."""
    await child.send(user_frame([text("see"), image()], shouldQuery=False))
    await child.until(is_result)
    use = {"type": "tool_use", "id": "call_1", "name": "t", "input": {}}
    await child.send(assistant_frame([use], id="msg_1"))
    given = {"type": "tool_result", "tool_use_id": "call_1", "content": [text("r"), image()]}
    await child.turn([given])
    blocks = stub.requests[0].body["messages"][0]["content"]
    assert blocks[:2] == [text("see"), image()]
    assert is_source(blocks[2])
    assert last_user_content(stub) == [given]
