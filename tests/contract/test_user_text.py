"""Which user text reaches the API as it was written, and how to write it so that it does."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.contract.conftest import OpenChild
from tests.support.logins import every_login
from tests.support.messages_stub import MessagesStub
from tests.support.raw_cli import Frame, RawCli, is_result, text_of, user_frame

PIXEL = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk"
    "+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
IMAGE = {
    "type": "image",
    "source": {"type": "base64", "media_type": "image/png", "data": PIXEL},
}


def text(content: str) -> Frame:
    return {"type": "text", "text": content}


async def arrived(child: RawCli, stub: MessagesStub, content: Any) -> list[str]:
    """Take a turn and return the texts of the last message the API got for it."""
    before = len(stub.requests)
    await child.turn(content)
    assert len(stub.requests) == before + 1
    return stub.requests[-1].conversation[-1][1]


async def test_a_known_command_in_the_last_text_block_is_never_sent(
    child: RawCli, stub: MessagesStub
) -> None:
    """Protocol notes, section 2: despite --disable-slash-commands."""
    for content in ("/help me", [text("/help me")], [text("x"), text("/compact")]):
        result = (await child.turn(content))[-1]
        assert result["num_turns"] == 0
        assert "isn't available in this environment" in result["result"]
    assert stub.requests == []


@every_login
async def test_an_empty_text_block_behind_a_slash_keeps_it_exact(
    child: RawCli, stub: MessagesStub
) -> None:
    """Protocol notes, section 2: the escape. The empty block itself never reaches the API."""
    for slash in ("/help me", "/compact", "/unknown", "/usr/bin", "/", "/help\nme"):
        assert await arrived(child, stub, [text(slash), text("")]) == [slash]
    assert await arrived(child, stub, [text("a"), text("/help"), text("")]) == ["a", "/help"]
    assert "slash command" not in json.dumps(stub.requests[-1].body["messages"])


async def test_an_empty_text_block_behind_ordinary_text_changes_nothing(
    child: RawCli, stub: MessagesStub
) -> None:
    """Protocol notes, section 2: the escape may be used on any text."""
    for plain in ("hello", "  spaced  ", "line\n", "!ls", "# heading", "@file"):
        assert await arrived(child, stub, [text(plain), text("")]) == [plain]


async def test_the_escape_works_behind_an_image_too(child: RawCli, stub: MessagesStub) -> None:
    """Protocol notes, sections 2 and 9. The CLI adds a note of its own about the image."""
    assert (await child.turn([IMAGE, text("/help")]))[-1]["num_turns"] == 0
    await child.turn("clear the command out of the next message")
    got = await arrived(child, stub, [IMAGE, text("/help"), text("")])
    assert [part for part in got if not part.startswith("[Image: source:")] == ["<image>", "/help"]


async def test_text_that_only_resembles_a_command_is_sent_as_it_is(
    child: RawCli, stub: MessagesStub
) -> None:
    """Protocol notes, section 2."""
    for plain in (" /help", "\n/help", "\t/help", "/usr/bin is a folder", "//help", "/", "a /help"):
        assert await arrived(child, stub, plain) == [plain]


async def test_several_text_blocks_arrive_as_several_blocks(
    child: RawCli, stub: MessagesStub
) -> None:
    """Protocol notes, section 2."""
    assert await arrived(child, stub, [text("a\n"), text("b"), text(" c")]) == ["a\n", "b", " c"]


async def test_empty_text_arrives_as_no_content(child: RawCli, stub: MessagesStub) -> None:
    """Protocol notes, section 2: nothing the CLI accepts arrives as an empty message."""
    assert await arrived(child, stub, "") == ["(no content)"]
    assert await arrived(child, stub, [text("")]) == ["(no content)"]


async def test_blank_text_is_answered_by_the_cli_itself(child: RawCli, stub: MessagesStub) -> None:
    """The turn ends as a success with no API call, so the gateway refuses such text itself."""
    for blank in (" ", "\n", "\t \n"):
        result = (await child.turn(blank))[-1]
        assert (result["is_error"], result["num_turns"]) == (False, 0)
        assert result["result"].startswith("Blank prompt")
    assert stub.requests == []


@pytest.mark.parametrize("simple", [True, False], ids=["simple", "ordinary"])
async def test_with_attachments_off_an_at_path_reads_nothing(
    open_child: OpenChild, stub: MessagesStub, tmp_path: Path, simple: bool
) -> None:
    """Protocol notes, section 2: CLAUDE_CODE_DISABLE_ATTACHMENTS alone is what keeps it inert."""
    (tmp_path / "secret.txt").write_text("TOP-SECRET")
    without = () if simple else ("CLAUDE_CODE_SIMPLE",)
    async with open_child(without=without) as cli:
        await cli.turn("what does @secret.txt say")
    assert "TOP-SECRET" not in json.dumps(stub.requests[0].body)
    assert stub.requests[0].conversation == [("user", ["what does @secret.txt say"])]


async def test_with_attachments_on_an_at_path_reads_the_file(
    open_child: OpenChild, stub: MessagesStub, tmp_path: Path
) -> None:
    """Protocol notes, section 2: the reason the variable is always set."""
    (tmp_path / "secret.txt").write_text("TOP-SECRET")
    without = ("CLAUDE_CODE_DISABLE_ATTACHMENTS", "CLAUDE_CODE_SIMPLE")
    async with open_child(without=without) as cli:
        await cli.turn("what does @secret.txt say")
    assert "TOP-SECRET" in json.dumps(stub.requests[0].body)


async def test_simple_mode_adds_nothing_to_what_was_said(child: RawCli, stub: MessagesStub) -> None:
    """Protocol notes, section 2: CLAUDE_CODE_SIMPLE removes environment, model and date notes."""
    await child.turn("one")
    await child.turn("two")
    roles = [message["role"] for message in stub.requests[-1].body["messages"]]
    assert roles == ["user", "assistant", "user"]
    assert "<system-reminder>" not in json.dumps(stub.requests[-1].body)


@pytest.mark.parametrize(
    ("escaped", "got"),
    [
        (r"a\u0000b", "a\x00b"),
        (r"\u0007\u001b[31m", "\x07\x1b[31m"),
        (r"a\ud83d\ude00b", "a\U0001f600b"),
        (r"a\ud800b", "a\ufffdb"),
        (r"\udc00", "\ufffd"),
        ("a\u2028b", "a\u2028b"),
    ],
    ids=["nul", "control", "surrogate-pair", "lone-high", "lone-low", "raw-line-separator"],
)
async def test_odd_characters_pass_and_lone_surrogates_are_replaced(
    child: RawCli, stub: MessagesStub, escaped: str, got: str
) -> None:
    """Protocol notes, section 15. `escaped` is what stands between the quotes of the JSON."""
    line = json.dumps(user_frame("TEXT")).replace("TEXT", escaped)
    await child.send_bytes(line.encode() + b"\n")
    seen = await child.until(is_result)
    assert stub.requests[0].conversation == [("user", [got])]
    assert text_of(seen) == f"turn 1: {got}"
