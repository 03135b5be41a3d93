"""The lines of a server's standard output, each a message; one that is too long is passed over.

Knows: newlines, a bound, and where in a message the number of its request stands. Refuses to know:
JSON beyond that. Pure: `feed` it bytes, and it returns lines.
"""

from __future__ import annotations

import re

from attrs import frozen

HEAD_BYTES = 256

_REQUEST = re.compile(rb'\s*\{\s*(?:"jsonrpc"\s*:\s*"2\.0"\s*,\s*)?"id"\s*:\s*(\d{1,15})\s*[,}]')


@frozen
class TooLong:
    """A message that was passed over. It answers the request `request_id`."""

    request_id: int
    most: int

    def __str__(self) -> str:
        return f"the answer has more than {self.most} bytes (mcp.max_result_bytes)"


class LineTooLong(Exception):
    """A message was too long, and does not say at its beginning which request it answers."""


class MessageLines:
    """Cuts bytes into lines; keeps at most one line's bytes."""

    def __init__(self, max_bytes: int) -> None:
        self._max = max_bytes
        self._pieces: list[bytes] = []
        self._held = 0
        self._skipping = False

    def feed(self, data: bytes) -> list[bytes | TooLong]:
        """The lines that `data` completes, without their newline. Of one that is too long the rest
        is passed over. Raises `LineTooLong`."""
        found: list[bytes | TooLong] = []
        *lines, rest = data.split(b"\n")
        for line in lines:
            self._add(line, found)
            if self._pieces:
                found.append(b"".join(self._pieces))
            self._pieces.clear()
            self._held, self._skipping = 0, False
        self._add(rest, found)
        return found

    def _add(self, piece: bytes, found: list[bytes | TooLong]) -> None:
        if self._skipping or not piece:
            return
        self._pieces.append(piece)
        self._held += len(piece)
        if self._held > self._max:
            head = b"".join(self._pieces[:HEAD_BYTES])[:HEAD_BYTES]
            self._pieces.clear()
            self._skipping = True
            request = _REQUEST.match(head)
            if request is None:
                raise LineTooLong(
                    f"a message of more than {self._max} bytes (mcp.max_result_bytes)"
                )
            found.append(TooLong(int(request[1]), self._max))
