"""Lines that are typed, read without holding up anything else.

Knows: a file descriptor, what of it was read too early, how a terminal is set while a person writes
at it. Refuses to know: what a line means, and what keys do (`transport.client.line_editor`).

A thread in `input()` could not be called back when the program wants to end, so all that is done
here is to wait until there is something to be read. A terminal's own line editing is off meanwhile:
it cuts lines at 4,095 bytes.
"""

from __future__ import annotations

import atexit
import os
import sys
import termios
from contextlib import suppress
from typing import Any

import trio

from .line_editor import ASK_FOR_PASTE, REFUSE_PASTE, LineEditor

READ_BYTES = 65536
LONGEST = 1024 * 1024


class LineTooLong(Exception):
    """More came without an end of line than any line can have."""

    def __init__(self) -> None:
        super().__init__(f"a line has more than {LONGEST} bytes")


class LineInput:
    """Reads lines from `fd`: a terminal, a pipe or a file. A terminal is set for that until `close`
    (which the end of the program sees to as well), and a text that is pasted there is one line."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._data = b""
        self._ended = False
        self.is_terminal = os.isatty(fd)
        self._before: list[Any] | None = None  # how the terminal was set
        self._editor = LineEditor(echo=False)
        if self.is_terminal:
            self._open_terminal()

    async def read(self) -> str | None:
        """The next line, without its end; None when there are no more. Cancelled, it loses
        nothing. Raises `LineTooLong`."""
        if self.is_terminal:
            return await self._read_terminal()
        while b"\n" not in self._data and not self._ended:
            if len(self._data) > LONGEST:
                raise LineTooLong
            await self._wait()
            more = os.read(self._fd, READ_BYTES)
            self._ended = not more
            self._data += more
        if not self._data:
            await trio.lowlevel.checkpoint()
            return None
        line, _, self._data = self._data.partition(b"\n")
        return line.decode("utf-8", "replace").removesuffix("\r")

    async def _read_terminal(self) -> str | None:
        while True:
            found = self._editor.next(ended=self._ended)
            self._show(self._editor.take_shown())
            if found is not None:
                await trio.lowlevel.checkpoint()
                return found[0]
            if self._editor.size > LONGEST:
                raise LineTooLong
            await self._wait()
            try:
                more = os.read(self._fd, READ_BYTES)
            except OSError:  # EIO: no process has the other side open any more
                more = b""
            self._ended = not more
            self._editor.feed(more)

    async def _wait(self) -> None:
        try:
            await trio.lowlevel.wait_readable(self._fd)
        except OSError:  # a plain file, which epoll does not take, and which can always be read
            await trio.lowlevel.checkpoint()

    def forget_typed(self) -> None:
        """Drop what was typed ahead at a terminal: it was not meant for what is asked now."""
        if self.is_terminal:
            self._editor.forget()
            with suppress(termios.error):
                termios.tcflush(self._fd, termios.TCIFLUSH)

    # -- the terminal ------------------------------------------------------------------------------

    def _open_terminal(self) -> None:
        try:
            attributes = termios.tcgetattr(self._fd)
            self._before = termios.tcgetattr(self._fd)
        except termios.error:
            return
        # Where the terminal does not echo, a program writes, and wants to read answers alone.
        echoes = bool(attributes[3] & termios.ECHO)
        self._editor = LineEditor(echo=echoes)
        attributes[3] &= ~(termios.ICANON | termios.ECHO)
        attributes[6][termios.VMIN], attributes[6][termios.VTIME] = 1, 0
        with suppress(termios.error):
            termios.tcsetattr(self._fd, termios.TCSANOW, attributes)
        atexit.register(self.close)
        if echoes:
            self._show(ASK_FOR_PASTE)

    def close(self) -> None:
        """Set the terminal as it was."""
        atexit.unregister(self.close)
        before, self._before = self._before, None
        if before is None:
            return
        if before[3] & termios.ECHO:
            self._show(REFUSE_PASTE)
        with suppress(termios.error, OSError):
            termios.tcsetattr(self._fd, termios.TCSANOW, before)

    def _show(self, shown: bytes) -> None:
        with suppress(OSError):
            while shown:
                shown = shown[os.write(self._fd, shown) :]


def standard_input() -> LineInput:
    return LineInput(sys.stdin.fileno())
