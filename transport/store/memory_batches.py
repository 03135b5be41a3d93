"""Files and batches in memory (`memory.MemoryEngine` has the rest): dicts, in the order in which
things were made. The dicts are the nodes' together, where there are several."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Literal

from attrs import define, evolve, field

from .batch_engine import MAX_NUMBER
from .batch_interface import (
    ENDED,
    BatchLease,
    BatchPage,
    BatchRequest,
    BatchResult,
    BatchState,
    Dialect,
    FileBounds,
    FilePage,
    RequestState,
    StoredBatch,
    StoredFile,
)
from .interface import Fenced, Full, Missing, Node, Owned, StoreError

Living = Callable[[str | None], Node | None]
"""Another node of this id, if it lives."""


@define(eq=False)
class HeldFile:
    """`writer` is the node that writes a file which is not whole."""

    file: StoredFile
    writer: str
    is_whole: bool = False
    pieces: dict[int, bytes] = field(factory=dict)


class MemoryFiles:
    """See `batch_engine.FileTable`."""

    def __init__(self, files: dict[str, HeldFile], node_id: str, living: Living) -> None:
        self._files = files
        self._node_id = node_id
        self._living = living

    @property
    def held_bytes(self) -> int:
        return sum(each.file.bytes for each in self._files.values())

    def move(self, node_id: str, to: str) -> None:
        """What a node writes is written on in another life of it."""
        for found in self._files.values():
            if found.writer == node_id:
                found.writer = to

    def begin(self, file: StoredFile, bounds: FileBounds) -> None:
        held = sum(each.file.key_id == file.key_id for each in self._files.values())
        if bounds.max_files is not None and held >= bounds.max_files:
            raise Full("max_files")
        self._files[file.id] = HeldFile(evolve(file, bytes=0), self._node_id)

    def _writing(self, file_id: str) -> HeldFile:
        found = self._files.get(file_id)
        if found is None or found.is_whole or found.writer != self._node_id:
            raise Missing(f"There is no file {file_id}.")
        return found

    def write(self, file_id: str, number: int, content: bytes, bounds: FileBounds) -> None:
        found = self._writing(file_id)
        if number > MAX_NUMBER:
            raise StoreError("The file has too many pieces.")
        own = [each.file.bytes for each in self._files.values()
               if each.file.key_id == found.file.key_id]  # fmt: skip
        if bounds.max_key_bytes is not None and sum(own) + len(content) > bounds.max_key_bytes:
            raise Full("max_key_bytes")
        most = bounds.max_total_bytes
        if most is not None and self.held_bytes + len(content) > most:
            raise Full("max_total_bytes")
        found.pieces[number] = content
        found.file = evolve(found.file, bytes=found.file.bytes + len(content))

    def finish(self, file: StoredFile) -> StoredFile:
        found = self._writing(file.id)
        found.is_whole = True
        found.file = evolve(
            found.file, purpose=file.purpose, name=file.name, expires_at=file.expires_at
        )
        return found.file

    def get(self, file_id: str, key_id: str, now: float) -> StoredFile:
        found = self._files.get(file_id)
        if found is None or not found.is_whole or not _is_there(found.file, key_id, now):
            raise Missing(f"There is no file {file_id}.")
        return found.file

    def read(self, file_id: str, number: int) -> bytes:
        found = self._files.get(file_id)
        return b"" if found is None else found.pieces.get(number, b"")

    def page(
        self,
        key_id: str,
        limit: int,
        after: str | None,
        newest_first: bool,
        purpose: str | None,
        now: float,
    ) -> FilePage:
        mine = [
            each.file
            for each in self._files.values()
            if each.is_whole and _is_there(each.file, key_id, now)
        ]
        if newest_first:
            mine.reverse()
        if after is not None:
            mine = mine[mine.index(self.get(after, key_id, now)) + 1 :]
        mine = [each for each in mine if purpose in (None, each.purpose)]
        return FilePage(tuple(mine[:limit]), len(mine) > limit)

    def delete(self, file_id: str, key_id: str) -> None:
        found = self._files.get(file_id)
        if found is None or found.file.key_id != key_id:
            raise Missing(f"There is no file {file_id}.")
        del self._files[file_id]

    def prune(self, now: float) -> None:
        for each in [*self._files.values()]:
            is_ours = each.is_whole or each.writer == self._node_id
            if each.file.expires_at <= now or not (is_ours or self._living(each.writer)):
                del self._files[each.file.id]


def _is_there(file: StoredFile, key_id: str, now: float) -> bool:
    return file.key_id == key_id and file.expires_at > now


@define(eq=False)
class _Request:
    custom_id: str
    body: bytes
    state: RequestState = "waiting"
    token: int = 0
    result: bytes = b""


@define(eq=False)
class HeldBatch:
    batch: StoredBatch
    owner: str
    token: int = 1
    requests: list[_Request] = field(factory=list)

    @property
    def is_open(self) -> bool:
        return self.batch.state not in ENDED

    def count(self, state: RequestState, more: int) -> None:
        counts = self.batch.counts
        counts = evolve(counts, **{state: getattr(counts, state) + more})
        self.batch = evolve(self.batch, counts=counts)

    def enter(self, state: BatchState, now: float) -> None:
        self.batch = evolve(self.batch, state=state, times={**self.batch.times, state: now})


class MemoryBatches:
    """See `batch_engine.BatchTable`."""

    def __init__(self, batches: dict[str, HeldBatch], node_id: str, living: Living) -> None:
        self._batches = batches
        self._node_id = node_id
        self._living = living

    @property
    def held_bytes(self) -> int:
        requests = (each for found in self._batches.values() for each in found.requests)
        return sum(len(each.body) + len(each.result) for each in requests)

    def add(self, batch: StoredBatch, max_open: int) -> BatchLease:
        open_ones = [each for each in self._batches.values() if each.is_open]
        if sum(each.batch.key_id == batch.key_id for each in open_ones) >= max_open:
            raise Full("max_open")
        self._batches[batch.id] = HeldBatch(batch, self._node_id)
        return BatchLease(batch.id, batch.key_id, 1)

    def move(self, node_id: str, to: str) -> None:
        """What a node has goes on in another life of it."""
        for found in self._batches.values():
            if found.owner == node_id:
                found.owner = to

    def orphans(self, limit: int) -> list[tuple[str, str]]:
        found = [
            (each.batch.id, each.batch.key_id)
            for each in self._batches.values()
            if each.is_open and each.owner != self._node_id and not self._living(each.owner)
        ]
        return found[:limit]

    def _find(self, batch_id: str, key_id: str) -> HeldBatch:
        found = self._batches.get(batch_id)
        if found is None or found.batch.key_id != key_id:
            raise Missing(f"There is no batch {batch_id}.")
        return found

    def _leased(self, lease: BatchLease) -> HeldBatch:
        found = self._batches.get(lease.batch_id)
        if found is None or found.token != lease.token:
            raise Fenced(f"Another lease of {lease.batch_id} was granted, or it was deleted.")
        return found

    def acquire(self, batch_id: str, key_id: str) -> BatchLease:
        found = self._find(batch_id, key_id)
        other = self._living(found.owner)
        if other is not None:
            raise Owned(other)
        found.token, found.owner = found.token + 1, self._node_id
        return BatchLease(batch_id, key_id, found.token)

    def add_requests(self, lease: BatchLease, requests: Sequence[tuple[str, bytes]]) -> None:
        found = self._leased(lease)
        if found.batch.counts.total + len(requests) > MAX_NUMBER:
            raise StoreError("The batch has too many requests.")
        found.requests += [_Request(custom_id, body) for custom_id, body in requests]
        counts = evolve(found.batch.counts, total=found.batch.counts.total + len(requests))
        found.batch = evolve(found.batch, counts=counts)

    def drop_requests(self, lease: BatchLease) -> None:
        found = self._leased(lease)
        found.requests.clear()
        if found.batch.state == "validating":
            found.batch = evolve(found.batch, counts=evolve(found.batch.counts, total=0))

    def change(
        self,
        lease: BatchLease,
        expected: Collection[BatchState],
        state: BatchState,
        details: Mapping[str, Any] | None,
        output_file: str | None,
        error_file: str | None,
        now: float,
    ) -> StoredBatch:
        found = self._leased(lease)
        if found.batch.state in expected:
            found.enter(state, now)
            found.batch = evolve(
                found.batch,
                details=found.batch.details if details is None else details,
                output_file=output_file or found.batch.output_file,
                error_file=error_file or found.batch.error_file,
            )
        return found.batch

    def cancel(self, batch_id: str, key_id: str, now: float) -> StoredBatch:
        found = self._find(batch_id, key_id)
        if found.batch.state in ("validating", "in_progress"):
            found.enter("cancelling", now)
        return found.batch

    def claim(self, lease: BatchLease) -> BatchRequest | None:
        found = self._leased(lease)
        if found.batch.state != "in_progress":
            return None
        for number, each in enumerate(found.requests, 1):
            if each.state == "waiting":
                each.state, each.token = "running", lease.token
                return BatchRequest(number, each.custom_id, each.body)
        return None

    def settle(self, lease: BatchLease, number: int, state: RequestState, result: bytes) -> None:
        found = self._leased(lease)
        if number > len(found.requests) or found.requests[number - 1].state != "running":
            return
        request = found.requests[number - 1]
        request.state, request.result = state, result
        if state != "waiting":
            found.count(state, 1)

    def lost(self, lease: BatchLease) -> list[BatchRequest]:
        found = self._leased(lease)
        return [
            BatchRequest(number, each.custom_id, b"")
            for number, each in enumerate(found.requests, 1)
            if each.state == "running" and each.token < lease.token
        ]

    def close(self, lease: BatchLease, state: Literal["canceled", "expired"]) -> None:
        found = self._leased(lease)
        going = [each for each in found.requests if each.state in ("waiting", "running")]
        for each in going:
            each.state = state
        found.count(state, len(going))

    def get(self, batch_id: str, key_id: str) -> StoredBatch:
        return self._find(batch_id, key_id).batch

    def page(
        self, key_id: str, dialect: Dialect, limit: int, after: str | None, before: str | None
    ) -> BatchPage:
        mine = [
            each.batch
            for each in reversed(self._batches.values())
            if each.batch.key_id == key_id and each.batch.dialect == dialect
        ]
        ids, named = [each.id for each in mine], before or after
        if named is not None and named not in ids:
            raise Missing(f"There is no batch {named}.")
        if before is not None:
            mine = mine[: ids.index(before)]
            return BatchPage(tuple(mine[-limit:]), len(mine) > limit)
        if after is not None:
            mine = mine[ids.index(after) + 1 :]
        return BatchPage(tuple(mine[:limit]), len(mine) > limit)

    def results(self, batch_id: str, key_id: str, first: int, limit: int) -> list[BatchResult]:
        found = self._find(batch_id, key_id)
        ended = [
            BatchResult(number, each.custom_id, each.state, each.result)
            for number, each in enumerate(found.requests, 1)
            if number >= first and each.state not in ("waiting", "running")
        ]
        return ended[:limit]

    def delete(self, batch_id: str, key_id: str) -> None:
        if self._find(batch_id, key_id).is_open:
            raise Missing(f"There is no batch {batch_id} that has ended.")
        del self._batches[batch_id]

    def prune(self, now: float) -> None:
        for each in [*self._batches.values()]:
            if each.batch.kept_until <= now and not each.is_open:
                del self._batches[each.batch.id]
