"""Lines that somebody types, read without holding up anything else.

Knows: a file descriptor, what of it was read too early. Refuses to know: what a line means.

A thread in `input()` could not be called back when the program wants to end; the terminal itself
edits the line (canonical mode), so all that is left is to wait until there is one.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress

import trio

READ_BYTES = 65536
LONGEST = 1024 * 1024


class LineTooLong(Exception):
    """More came without an end of line than any line can have."""

    def __init__(self) -> None:
        super().__init__(f"a line has more than {LONGEST} bytes")


class LineInput:
    """Reads lines from `fd`: a terminal, a pipe or a file."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._data = b""
        self._ended = False
        self.is_terminal = os.isatty(fd)

    async def read(self) -> str | None:
        """The next line, without its end; None when there are no more. Cancelled, it loses
        nothing. Raises `LineTooLong`."""
        while b"\n" not in self._data and not self._ended:
            if len(self._data) > LONGEST:
                raise LineTooLong
            await self._wait()
            more = os.read(self._fd, READ_BYTES)
            self._ended = not more
            self._data += more
        if not self._data:
            await trio.lowlevel.checkpoint()
            if self.is_terminal:  # Ctrl-D ends one line, not the terminal
                self._ended = False
            return None
        line, _, self._data = self._data.partition(b"\n")
        return line.decode("utf-8", "replace").removesuffix("\r")

    async def _wait(self) -> None:
        try:
            await trio.lowlevel.wait_readable(self._fd)
        except OSError:  # a plain file, which epoll does not take, and which can always be read
            await trio.lowlevel.checkpoint()

    def forget_typed(self) -> None:
        """Drop what was typed ahead at a terminal: it was not meant for what is asked now."""
        if self.is_terminal:
            import termios

            self._data = b""
            with suppress(termios.error):
                termios.tcflush(self._fd, termios.TCIFLUSH)


def standard_input() -> LineInput:
    return LineInput(sys.stdin.fileno())
