"""Newline-delimited JSON, the bytes of it: cutting a stream into lines.

Knows: newlines, and a bound on the length of a line. Refuses to know: JSON, and where the bytes
come from. Pure: `feed` it bytes, and it returns lines.
"""

from __future__ import annotations


class LineTooLong(Exception):
    """A line grew over the limit before its end came."""


class LineSplitter:
    """Cuts bytes into lines without ever looking at a byte twice.

    A line may be many megabytes (a 1 MB answer is one 1 MB line), so the pieces of an unfinished
    line are kept as they came and joined once.
    """

    def __init__(self, max_line_bytes: int) -> None:
        self._max = max_line_bytes
        self._pieces: list[bytes] = []
        self._held = 0

    @property
    def unfinished(self) -> int:
        """Bytes held of a line whose end has not come."""
        return self._held

    def feed(self, data: bytes) -> list[bytes]:
        """The lines that `data` completes, without their newline. Raises `LineTooLong`."""
        lines = data.split(b"\n")
        rest = lines.pop()
        if lines and self._pieces:
            self._pieces.append(lines[0])
            lines[0] = b"".join(self._pieces)
            self._pieces.clear()
            self._held = 0
        if rest:
            self._pieces.append(rest)
            self._held += len(rest)
        if self._held > self._max or (lines and max(map(len, lines)) > self._max):
            raise LineTooLong(f"a line of more than {self._max} bytes")
        return lines
