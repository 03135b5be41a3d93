"""Files and batches of a store of one gateway alone (`local.LocalStore`): each call is one look-up
or one change, in the right thread."""

from __future__ import annotations

from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from typing import Any, Literal, Protocol, TypeVar

from .batch_interface import (
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
from .engine import Engine
from .hints import Topic

T = TypeVar("T")


class Runs(Protocol):
    """The part of `local.Runner` that is needed here."""

    def write(self, change: Callable[[Engine], T], size: int = 0) -> Coroutine[Any, Any, T]: ...
    async def read(self, look: Callable[[Engine], T]) -> T: ...


class LocalFiles:
    """See `batch_interface.FileStore`."""

    def __init__(self, runner: Runs, clock: Callable[[], float]) -> None:
        self._runner = runner
        self._clock = clock

    async def begin(self, file: StoredFile, bounds: FileBounds) -> None:
        await self._runner.write(lambda engine: engine.files.begin(file, bounds))

    async def write(self, file_id: str, number: int, content: bytes, bounds: FileBounds) -> None:
        await self._runner.write(
            lambda engine: engine.files.write(file_id, number, content, bounds), len(content)
        )

    async def finish(self, file: StoredFile) -> StoredFile:
        return await self._runner.write(lambda engine: engine.files.finish(file))

    async def get(self, file_id: str, key_id: str) -> StoredFile:
        now = self._clock()
        return await self._runner.read(lambda engine: engine.files.get(file_id, key_id, now))

    async def read(self, file_id: str, number: int) -> bytes:
        return await self._runner.read(lambda engine: engine.files.read(file_id, number))

    async def page(
        self,
        key_id: str,
        *,
        limit: int,
        after: str | None = None,
        newest_first: bool = True,
        purpose: str | None = None,
    ) -> FilePage:
        now = self._clock()
        return await self._runner.read(
            lambda engine: engine.files.page(key_id, limit, after, newest_first, purpose, now)
        )

    async def delete(self, file_id: str, key_id: str) -> None:
        await self._runner.write(lambda engine: engine.files.delete(file_id, key_id))

    async def prune(self) -> None:
        now = self._clock()
        await self._runner.write(lambda engine: engine.files.prune(now))


class LocalBatches:
    """See `batch_interface.BatchStore`."""

    def __init__(
        self, runner: Runs, clock: Callable[[], float], tell: Callable[[Topic], None]
    ) -> None:
        self._runner = runner
        self._clock = clock
        self._tell = tell

    async def add(self, batch: StoredBatch, *, max_open: int) -> BatchLease:
        return await self._runner.write(lambda engine: engine.batches.add(batch, max_open))

    async def orphans(self, limit: int = 50) -> tuple[tuple[str, str], ...]:
        return tuple(await self._runner.read(lambda engine: engine.batches.orphans(limit)))

    async def acquire(self, batch_id: str, key_id: str) -> BatchLease:
        return await self._runner.write(lambda engine: engine.batches.acquire(batch_id, key_id))

    async def add_requests(self, lease: BatchLease, requests: Sequence[tuple[str, bytes]]) -> None:
        size = sum(len(body) for _, body in requests)
        await self._runner.write(lambda engine: engine.batches.add_requests(lease, requests), size)

    async def drop_requests(self, lease: BatchLease) -> None:
        await self._runner.write(lambda engine: engine.batches.drop_requests(lease))

    async def change(
        self,
        lease: BatchLease,
        expected: Collection[BatchState],
        state: BatchState,
        *,
        details: Mapping[str, Any] | None = None,
        output_file: str | None = None,
        error_file: str | None = None,
    ) -> StoredBatch:
        now = self._clock()
        return await self._runner.write(
            lambda engine: engine.batches.change(
                lease, expected, state, details, output_file, error_file, now
            )
        )

    async def cancel(self, batch_id: str, key_id: str) -> StoredBatch:
        now = self._clock()
        found = await self._runner.write(
            lambda engine: engine.batches.cancel(batch_id, key_id, now)
        )
        self._tell("batches")
        return found

    async def claim(self, lease: BatchLease) -> BatchRequest | None:
        return await self._runner.write(lambda engine: engine.batches.claim(lease))

    async def settle(
        self, lease: BatchLease, number: int, state: RequestState, result: bytes = b""
    ) -> None:
        await self._runner.write(
            lambda engine: engine.batches.settle(lease, number, state, result), len(result)
        )

    async def lost(self, lease: BatchLease) -> tuple[BatchRequest, ...]:
        return tuple(await self._runner.read(lambda engine: engine.batches.lost(lease)))

    async def close(self, lease: BatchLease, state: Literal["canceled", "expired"]) -> None:
        await self._runner.write(lambda engine: engine.batches.close(lease, state))

    async def get(self, batch_id: str, key_id: str) -> StoredBatch:
        return await self._runner.read(lambda engine: engine.batches.get(batch_id, key_id))

    async def page(
        self,
        key_id: str,
        dialect: Dialect,
        *,
        limit: int,
        after: str | None = None,
        before: str | None = None,
    ) -> BatchPage:
        return await self._runner.read(
            lambda engine: engine.batches.page(key_id, dialect, limit, after, before)
        )

    async def results(
        self, batch_id: str, key_id: str, first: int = 1, limit: int = 100
    ) -> tuple[BatchResult, ...]:
        found = await self._runner.read(
            lambda engine: engine.batches.results(batch_id, key_id, first, limit)
        )
        return tuple(found)

    async def delete(self, batch_id: str, key_id: str) -> None:
        await self._runner.write(lambda engine: engine.batches.delete(batch_id, key_id))

    async def prune(self) -> None:
        now = self._clock()
        await self._runner.write(lambda engine: engine.batches.prune(now))
