"""Lines from a pipe, a file or a terminal, read without holding up anything else."""

from __future__ import annotations

import os
import pty
import termios
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from ccapi.transport.client import line_input
from ccapi.transport.client.line_editor import ASK_FOR_PASTE, REFUSE_PASTE
from ccapi.transport.client.line_input import LineInput, LineTooLong


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reader, writer = os.pipe()
    yield reader, writer
    for fd in (reader, writer):
        try:
            os.close(fd)
        except OSError:
            pass


async def test_lines_come_whole_however_they_are_cut(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    lines = LineInput(reader)
    os.write(writer, "one\r\ntw\N{SNOWMAN}".encode()[:-1])
    assert await lines.read() == "one"
    with trio.move_on_after(0.05) as patience:
        await lines.read()
    assert patience.cancelled_caught  # and nothing is lost by that
    os.write(writer, "\N{SNOWMAN}".encode()[-1:] + b"\n\nlast")
    assert [await lines.read(), await lines.read()] == ["tw\N{SNOWMAN}", ""]
    os.close(writer)
    assert [await lines.read() for _ in range(3)] == ["last", None, None]


async def test_what_is_no_text_is_read_as_far_as_it_goes(pipe: tuple[int, int]) -> None:
    os.write(pipe[1], b"a\xffb\n")
    assert await LineInput(pipe[0]).read() == "a\N{REPLACEMENT CHARACTER}b"


async def test_waiting_for_a_line_holds_up_no_other_task(pipe: tuple[int, int]) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(LineInput(pipe[0]).read)
        await trio.sleep(0.05)
        nursery.cancel_scope.cancel()


async def test_a_plain_file(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    path.write_text("one\ntwo\n")
    fd = os.open(path, os.O_RDONLY)
    try:
        lines = LineInput(fd)
        assert [await lines.read() for _ in range(3)] == ["one", "two", None]
    finally:
        os.close(fd)


async def test_a_line_without_end_is_not_kept(
    pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(line_input, "LONGEST", 1000)
    os.write(pipe[1], b"x" * 2000)
    with pytest.raises(LineTooLong, match="more than 1000 bytes"):
        await LineInput(pipe[0]).read()


async def type_at(fd: int, text: str) -> None:
    """A terminal takes about 4 KB before a program reads them."""
    data = text.encode()
    while data:
        await trio.lowlevel.wait_writable(fd)
        data = data[os.write(fd, data[:1000]) :]


@pytest.mark.parametrize("length", [4_095, 4_096, 50_000])
async def test_a_line_at_a_terminal_is_not_cut(length: int) -> None:
    ours, theirs = pty.openpty()
    attributes = termios.tcgetattr(theirs)
    attributes[3] &= ~termios.ECHO
    termios.tcsetattr(theirs, termios.TCSANOW, attributes)
    lines = LineInput(theirs)
    try:
        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(type_at, ours, "x" * length + "\nnext\n")
                assert await lines.read() == "x" * length
                assert await lines.read() == "next"
    finally:
        lines.close()
        os.close(ours)
        os.close(theirs)


async def test_a_terminal_is_set_and_set_back() -> None:
    ours, theirs = pty.openpty()
    try:
        before = termios.tcgetattr(theirs)
        lines = LineInput(theirs)
        assert termios.tcgetattr(theirs) != before
        assert os.read(ours, 100) == ASK_FOR_PASTE
        os.write(ours, b"\x1b[200~a\nb\x1b[201~\n")
        with trio.fail_after(5):
            assert await lines.read() == "a\nb"
        assert os.read(ours, 100) == b"a\r\nb\r\n"
        lines.close()
        lines.close()
        assert os.read(ours, 100) == REFUSE_PASTE
        assert termios.tcgetattr(theirs) == before
    finally:
        os.close(ours)
        os.close(theirs)


async def test_a_terminal_that_is_hung_up_has_no_more_lines() -> None:
    ours, theirs = pty.openpty()
    lines = LineInput(theirs)
    os.write(ours, b"half")
    await trio.sleep(0.05)
    os.close(ours)
    with trio.fail_after(5):
        found = [await lines.read() for _ in range(2)]
    assert found[-1] is None
    lines.close()
    os.close(theirs)


async def test_what_was_typed_ahead_can_be_dropped_at_a_terminal_alone(
    pipe: tuple[int, int],
) -> None:
    ours, theirs = pty.openpty()
    try:
        lines = LineInput(theirs)
        assert lines.is_terminal
        os.write(ours, b"one\ntwo\n")
        assert await lines.read() == "one"
        lines.forget_typed()
        os.write(ours, b"three\n")
        assert await lines.read() == "three"
    finally:
        os.close(ours)
        os.close(theirs)
    lines = LineInput(pipe[0])
    os.write(pipe[1], b"one\ntwo\n")
    assert await lines.read() == "one"
    lines.forget_typed()
    assert await lines.read() == "two"
