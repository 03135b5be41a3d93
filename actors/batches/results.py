"""The results of a batch, as lines: read from the store, and written into files.

Knows: which results go where. Refuses to know: how a line is worded (`road.Words`).
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

from attrs import define, field

from ...transport.store.batch_interface import (
    PIECE_BYTES,
    BatchResult,
    BatchStore,
    FileBounds,
    FileStore,
    StoredBatch,
    StoredFile,
)
from .road import Words

READ_AT_ONCE = 32

ANY = FileBounds()
"""A batch's results are kept whatever other files its key has: what may run is bounded before."""


async def lines_of(
    store: BatchStore, batch: StoredBatch, words: Words
) -> AsyncGenerator[tuple[BatchResult, bytes], None]:
    """What became of each request that has ended, and the line that says so."""
    first = 1
    while found := await store.results(batch.id, batch.key_id, first, READ_AT_ONCE):
        for each in found:
            line = each.result
            if not line:
                line = words.unanswered(batch, each.number, each.custom_id, each.state)
            yield each, line
        first = found[-1].number + 1


@define(eq=False)
class FileWriter:
    """Writes a file piece by piece; there is none before the first bytes."""

    files: FileStore
    file: StoredFile
    _rest: bytearray = field(factory=bytearray)
    _number: int = 0
    _has_begun: bool = False

    async def write(self, content: bytes) -> None:
        if not self._has_begun:
            self._has_begun = True
            await self.files.begin(self.file, ANY)
        self._rest += content
        while len(self._rest) >= PIECE_BYTES:
            await self._write(PIECE_BYTES)

    async def _write(self, size: int) -> None:
        piece = bytes(self._rest[:size])
        del self._rest[:size]
        await self.files.write(self.file.id, self._number, piece, ANY)
        self._number += 1

    async def finish(self) -> str | None:
        """The id of the file, if there is one."""
        if not self._has_begun:
            return None
        if self._rest:
            await self._write(len(self._rest))
        await self.files.finish(self.file)
        return self.file.id


async def write_files(
    store: BatchStore, batch: StoredBatch, words: Words, good: FileWriter, bad: FileWriter
) -> tuple[str | None, str | None]:
    """Write what has succeeded into `good`, what has not into `bad`; the ids of the files."""
    async with aclosing(lines_of(store, batch, words)) as lines:
        async for each, line in lines:
            await (good if each.state == "succeeded" else bad).write(line + b"\n")
    return await good.finish(), await bad.finish()
