"""The answer to a request with an idempotency key, while it is written and read.

Knows: the pieces of one HTTP response, who reads them, and how many of them are in memory. Refuses
to know: what the pieces say, and who the readers are.

Every reader has its own place in the same pieces, so that none needs a buffer of its own. Up to
`limit` bytes an answer is in memory whole, and writing it never waits. Beyond, the first pieces go:
the writer waits for the `owner` to have read them, and for no other reader. One that is behind them
has lost its place.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import trio
from attrs import define, field, frozen

from ...schemas.errors import GatewayError
from ...schemas.openai import sse


class LostPlace(Exception):
    """The reader is too far behind: what it would read next is in memory no more."""


class CutShort(Exception):
    """The answer ended in the middle."""


@frozen
class Head:
    """The beginning of an HTTP response; names of `headers` in lower case."""

    status: int
    headers: dict[str, str]


@define(eq=False)
class Answer:
    """See above. `head` is there once it is written; `size` counts all bytes written; `error` is
    why there is no answer. `is_over`: nothing more is written, and all of it was if `is_whole`."""

    limit: int
    head: Head | None = None
    size: int = 0
    error: GatewayError | None = None
    is_over: bool = False
    is_whole: bool = False
    _pieces: list[bytes] = field(factory=list, repr=False)
    _first: int = 0
    _held: int = 0
    _owner: Reader | None = field(default=None, repr=False)
    _readers: trio.lowlevel.ParkingLot = field(factory=trio.lowlevel.ParkingLot, repr=False)
    _writer: trio.lowlevel.ParkingLot = field(factory=trio.lowlevel.ParkingLot, repr=False)

    # -- written -----------------------------------------------------------------------------------

    def begin(self, head: Head) -> None:
        self.head = head

    async def write(self, piece: bytes) -> None:
        """Add a piece. Waits only beyond `limit`, and only for the owner."""
        self._add(piece)
        while self._held > self.limit:
            if self._owner is not None and self._owner.place <= self._first:
                await self._writer.park()
            else:
                self._held -= len(self._pieces.pop(0))
                self._first += 1

    def end(self, last: bytes = b"") -> None:
        """All is written, `last` being the last piece."""
        self._add(last)
        self.is_whole = True
        self.cut()

    def refuse(self, error: GatewayError) -> None:
        """There is no answer."""
        self.error = error
        self.cut()

    def cut(self) -> None:
        """No more is written. Idempotent."""
        self.is_over = True
        self._readers.unpark_all()

    def _add(self, piece: bytes) -> None:
        if piece:
            self._pieces.append(piece)
            self._held += len(piece)
            self.size += len(piece)
        self._readers.unpark_all()

    def whole(self) -> bytes | None:
        """What was written so far, without heartbeats; None where it is in memory no more."""
        if self._first:
            return None
        return b"".join(piece for piece in self._pieces if piece != sse.HEARTBEAT)

    # -- read --------------------------------------------------------------------------------------

    @contextmanager
    def read(self, *, owner: bool) -> Iterator[Reader]:
        """A reader from the beginning, while the block runs; the writer waits for an `owner`."""
        reader = Reader(self)
        if owner:
            self._owner = reader
        try:
            yield reader
        finally:
            if owner:
                self._owner = None
                self._writer.unpark_all()

    async def next_pieces(self, reader: Reader) -> bytes:
        """What stands behind the reader's place; nothing at the end. Raises as `Reader.receive`."""
        while True:
            if self.error is not None:
                raise self.error
            if reader.place < self._first:
                raise LostPlace
            pieces = self._pieces[reader.place - self._first :]
            if pieces:
                reader.place += len(pieces)
                self._writer.unpark_all()
                return b"".join(pieces)
            if self.is_over:
                if self.is_whole:
                    return b""
                raise CutShort
            await self._readers.park()


@define(eq=False)
class Reader:
    """One that reads an answer; `place` is the number of the piece that it reads next."""

    _answer: Answer
    place: int = 0

    async def receive(self) -> bytes:
        """The next bytes, whole pieces; none at the end. The head is written when this returns.
        Raises the `GatewayError` why there is no answer, `LostPlace`, `CutShort`."""
        return await self._answer.next_pieces(self)
