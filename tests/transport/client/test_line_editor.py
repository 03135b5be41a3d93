"""What keys make of a line, what of it is shown, and that a pasted text is one piece."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ccapi.transport.client.line_editor import SHOWN, LineEditor


def lines_of(*pieces: str | bytes) -> list[str | None]:
    """All messages that come of what is typed, piece by piece."""
    editor, found = LineEditor(echo=True), list[str | None]()
    for piece in pieces:
        editor.feed(piece.encode() if isinstance(piece, str) else piece)
        while (message := editor.next()) is not None:
            found += message
    return found


def shown(text: str) -> str:
    editor = LineEditor(echo=True)
    editor.feed(text.encode())
    editor.next()
    return editor.take_shown().decode()


def paste(text: str) -> str:
    return f"\x1b[200~{text}\x1b[201~"


def test_lines_are_messages() -> None:
    assert lines_of("one\ntwo\r\n", "th", "ree\n") == ["one", "two", "", "three"]
    assert lines_of("\N{SNOWMAN}\n".encode()[:2], "\N{SNOWMAN}\n".encode()[2:]) == ["\N{SNOWMAN}"]


def test_a_line_has_any_length() -> None:
    assert lines_of("x" * 100_000, "y\n") == ["x" * 100_000 + "y"]


def test_a_pasted_text_is_one_message() -> None:
    assert lines_of(paste("a\n\n  b\tc\rd\r\ne\n"), "\n") == ["a\n\n  b\tc\nd\ne"]
    assert lines_of("See: ", paste("a\nb"), " and ", paste("c\nd"), ".\n") == [
        "See: a\nb and c\nd."
    ]
    assert lines_of(paste("\x04\x7f\x15\x1b[A"), "\n") == ["\x04\x7f\x15\x1b[A"]


@given(st.text(alphabet="ab\n\x1b[201~", max_size=30), st.integers(1, 5))
def test_it_is_the_same_however_it_is_cut(text: str, size: int) -> None:
    whole = paste(text.replace("\x1b[201~", "")) + "\n"
    pieces = [whole[at : at + size] for at in range(0, len(whole), size)]
    assert lines_of(*pieces) == lines_of(whole)


@pytest.mark.parametrize(
    ("typed", "line"),
    [
        ("abd\x7fc", "abc"),
        ("abd\x08c", "abc"),
        ("\x7f\x7fa", "a"),
        ("one two \x17three", "one three"),
        ("one\x17\x17two", "two"),
        ("one\x15two", "two"),
        (paste("a\nbc") + "\x15d", "a\nd"),
        (paste("a\nb") + "\x7f\x7fc", "ac"),
        ("ae\u0301\x7fi", "ai"),
        ("a\x1b[Db\x1b[1;5Cc\x1bOPd\x1bxe", "abcde"),
        ("a\x01\x02\x0bb", "ab"),
        ("a\x04b", "ab"),
    ],
)
def test_keys_edit_the_end_of_it(typed: str, line: str) -> None:
    assert lines_of(typed + "\n") == [line]


def test_control_d_says_that_there_is_no_more() -> None:
    assert lines_of("one\n\x04two\n") == ["one", None, "two"]


def test_the_end_of_input_ends_what_was_begun() -> None:
    editor = LineEditor(echo=False)
    editor.feed(b"one")
    assert editor.next() is None
    assert editor.next(ended=True) == ("one",)
    assert editor.next(ended=True) == (None,)
    assert editor.take_shown() == b""


def test_what_is_behind_a_message_waits_and_can_be_dropped() -> None:
    editor = LineEditor(echo=True)
    editor.feed(b"one\ntwo\nthr")
    assert (editor.next(), editor.take_shown()) == (("one",), b"one\n")
    assert editor.size == len("two\nthr")
    editor.forget()
    editor.feed(b"three\n")
    assert (editor.next(), editor.size) == (("three",), 0)


def test_what_is_written_is_shown() -> None:
    assert shown("ab\x7fc") == "ab\b \bc"
    assert shown("日\x7f") == "日\b \b\b \b"
    assert shown(paste("a\n\x1b[2Jb")) == "a\n\N{REPLACEMENT CHARACTER}[2Jb"
    assert shown(paste("a\nb\n") + "\x7f") == "a\nb\n\nb"
    long = paste("line\n" * SHOWN)
    assert shown(long) == f"[{5 * SHOWN:,} characters, {SHOWN + 1} lines]"
