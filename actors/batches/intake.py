"""The input of a batch: a file's lines become its requests.

Knows: lines, numbers, ids that must not come twice, and bounds. Refuses to know: what a line says
(`road.Words`). No more than one line, and some requests that are short, is in memory.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from functools import partial
from typing import Any

from attrs import define, field, frozen

from ...transport.http.bodies import Bodies
from ...transport.store.batch_interface import BatchLease, BatchStore, FileStore, StoredBatch
from .road import LineRefused, Words

WRITTEN_AT_ONCE = 500
WRITTEN_BYTES = 1024 * 1024
"""Requests, and about how many bytes of them, that are put into the store at once."""

MORE_LINES = 1000
"""Lines that have nothing on them, beside one for each request that there may be."""

MAX_ERRORS = 50
"""Lines that are refused before no other is looked at."""


@frozen
class Bounds:
    """Requests of a batch, and bytes of one line."""

    max_requests: int
    max_line_bytes: int


class TooLong(Exception):
    """A line has more bytes than it may."""


async def lines_of(
    files: FileStore, file_id: str, limit: int
) -> AsyncGenerator[Sequence[bytes], None]:
    """The lines of a file, some at a time, without their ends. Raises `TooLong`."""
    rest, number = bytearray(), 0
    while piece := await files.read(file_id, number):
        number += 1
        *whole, last = piece.split(b"\n")
        if whole:
            whole[0] = bytes(rest) + whole[0]
            rest.clear()
            yield whole
        rest += last
        if len(rest) > limit:
            raise TooLong
    if rest:
        yield [bytes(rest)]


@define(eq=False)
class Intake:
    """Takes in the lines of one batch."""

    batch: StoredBatch
    lease: BatchLease
    store: BatchStore
    words: Words
    bounds: Bounds
    bodies: Bodies
    errors: list[Mapping[str, Any]] = field(factory=list)
    count: int = 0
    _line: int = 0
    _seen: set[bytes] = field(factory=set)
    _waiting: list[tuple[str, bytes]] = field(factory=list)

    async def take(self, files: FileStore) -> Sequence[Mapping[str, Any]]:
        """All of them; what is wrong, if anything is. Raises `StoreError`."""
        most = self.bounds.max_line_bytes
        await self.store.drop_requests(self.lease)  # of an earlier life that came not to its end
        try:
            async with aclosing(lines_of(files, self.batch.input_file, most)) as found:
                async for lines in found:
                    size = sum(map(len, lines)) + len(lines)
                    # Parsing is the event loop's only where it is short.
                    await self.bodies.read(size, partial(self._read, lines))
                    await self._write()
                    if len(self.errors) >= MAX_ERRORS or self._has_too_many:
                        break
        except TooLong:
            text = f"A line may have {most} bytes (server.max_body_bytes)."
            self.errors.append(_error("line_too_long", text, line=self._line + 1))
        if self._has_too_many:
            text = (
                f"A batch may have {self.bounds.max_requests} requests (batches.max_requests), and "
                "not many more lines."
            )
            self.errors.append(_error("too_many_requests", text))
        if not self.count and not self.errors:
            self.errors.append(_error("empty_file", "The input file has no requests."))
        if not self.errors:
            await self._write(all_of_them=True)
        return self.errors

    @property
    def _has_too_many(self) -> bool:
        most = self.bounds.max_requests
        return self.count > most or self._line > 2 * most + MORE_LINES

    def _read(self, lines: Sequence[bytes]) -> None:
        for line in lines:
            self._line += 1
            if not line.strip():
                if self._has_too_many:
                    return
                continue
            self.count += 1
            if self._has_too_many or len(self.errors) >= MAX_ERRORS:
                return
            try:
                if len(line) > self.bounds.max_line_bytes:
                    raise TooLong
                custom_id, body = self.words.parse_line(line, self.batch.endpoint)
                name = hashlib.blake2b(custom_id.encode("utf-8", "replace"), digest_size=16)
                if name.digest() in self._seen:
                    text = "An earlier line has this custom_id."
                    raise LineRefused(_error("duplicate_custom_id", text, "custom_id"))
                self._seen.add(name.digest())
            except LineRefused as refused:
                self.errors.append({**refused.error, "line": self._line})
            else:
                self._waiting.append((custom_id, body))

    async def _write(self, *, all_of_them: bool = False) -> None:
        """Put requests into the store, if there are many, or as there are no more."""
        while self._waiting:
            size = sum(len(body) for _, body in self._waiting)
            is_much = len(self._waiting) >= WRITTEN_AT_ONCE or size >= WRITTEN_BYTES
            if not (is_much or all_of_them):
                return
            some, self._waiting = (
                self._waiting[:WRITTEN_AT_ONCE],
                self._waiting[WRITTEN_AT_ONCE:],
            )
            if not self.errors:  # else they will never run
                await self.store.add_requests(self.lease, some)


def _error(
    code: str, message: str, param: str | None = None, line: int | None = None
) -> dict[str, Any]:
    return {"code": code, "message": message, "param": param, "line": line}
