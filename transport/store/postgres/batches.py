"""Files and batches in PostgreSQL: which statement each call is (`batch_statements`)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Literal, Protocol

from ....schemas.log.codec import dumps, loads
from ..batch_engine import MAX_NUMBER
from ..batch_interface import (
    BatchLease,
    BatchPage,
    BatchRequest,
    BatchResult,
    BatchState,
    Counts,
    Dialect,
    FileBounds,
    FilePage,
    RequestState,
    StoredBatch,
    StoredFile,
)
from ..interface import Fenced, Full, Missing, Node, Owned, StoreError
from . import batch_statements as sql
from .pool import Pool
from .trio_connection import Row as Found


class Host(Protocol):
    """The store that these belong to."""

    node: Node

    @property
    def pool(self) -> Pool: ...


class PostgresFiles:
    """See `batch_interface.FileStore`. `moment`: now, where a test has a clock of its own."""

    def __init__(self, host: Host, moment: Callable[[], float | None]) -> None:
        self._host = host
        self._moment = moment

    async def begin(self, file: StoredFile, bounds: FileBounds) -> None:
        begun = await self._host.pool.write(
            sql.BEGIN,
            *(file.id, file.key_id, file.purpose, file.name, file.created_at, file.expires_at),
            *(self._host.node.id, bounds.max_files),
        )
        if not begun:
            raise Full("max_files")

    async def write(self, file_id: str, number: int, content: bytes, bounds: FileBounds) -> None:
        if number > MAX_NUMBER:
            raise StoreError("The file has too many pieces.")
        pool, node_id = self._host.pool, self._host.node.id
        written = await pool.write(
            sql.WRITE,
            *(file_id, node_id, number, content),
            *(bounds.max_key_bytes, bounds.max_total_bytes),
        )
        if written:
            return
        held = await pool.read(sql.HELD, file_id, node_id)
        if not held:
            raise _no_file(file_id)
        most = bounds.max_key_bytes
        is_own = most is not None and held[0][0] + len(content) > most
        raise Full("max_key_bytes" if is_own else "max_total_bytes")

    async def finish(self, file: StoredFile) -> StoredFile:
        rows = await self._host.pool.write(
            sql.FINISH,
            *(file.id, self._host.node.id, file.purpose, file.name, file.expires_at),
        )
        if not rows:
            raise _no_file(file.id)
        return _file(rows[0])

    async def get(self, file_id: str, key_id: str) -> StoredFile:
        rows = await self._host.pool.read(sql.GET, _sane(file_id), key_id, self._moment())
        if not rows:
            raise _no_file(file_id)
        return _file(rows[0])

    async def read(self, file_id: str, number: int) -> bytes:
        rows = await self._host.pool.read(sql.READ, file_id, number)
        return bytes(rows[0][0]) if rows else b""

    async def page(
        self,
        key_id: str,
        *,
        limit: int,
        after: str | None = None,
        newest_first: bool = True,
        purpose: str | None = None,
    ) -> FilePage:
        if after is not None:
            await self.get(after, key_id)
        rows = await self._host.pool.read(
            sql.files(newest_first=newest_first),
            *(key_id, self._moment(), purpose, after, limit + 1),
        )
        return FilePage(tuple(map(_file, rows[:limit])), len(rows) > limit)

    async def delete(self, file_id: str, key_id: str) -> None:
        if not await self._host.pool.write(sql.DELETE, _sane(file_id), key_id):
            raise _no_file(file_id)

    async def prune(self) -> None:
        await self._host.pool.write(sql.PRUNE, self._moment(), self._host.node.id)


class PostgresBatches:
    """See `batch_interface.BatchStore`."""

    def __init__(self, host: Host, moment: Callable[[], float | None]) -> None:
        self._host = host
        self._moment = moment

    async def add(self, batch: StoredBatch, *, max_open: int) -> BatchLease:
        rows = await self._host.pool.write(
            sql.ADD,
            *(batch.id, batch.key_id, batch.dialect, batch.endpoint, batch.input_file),
            *(batch.state, batch.created_at, batch.expires_at, batch.kept_until),
            *(dumps(dict(batch.times)).decode(), dumps(dict(batch.details))),
            *(self._host.node.id, max_open),
        )
        if not rows:
            raise Full("max_open")
        return BatchLease(batch.id, batch.key_id, rows[0][0])

    async def orphans(self, limit: int = 50) -> tuple[tuple[str, str], ...]:
        rows = await self._host.pool.read(sql.ORPHANS, self._host.node.id, limit)
        return tuple((id, key_id) for id, key_id in rows)

    async def acquire(self, batch_id: str, key_id: str) -> BatchLease:
        pool, node_id = self._host.pool, self._host.node.id
        rows = await pool.write(sql.ACQUIRE, batch_id, key_id, node_id)
        if rows:
            return BatchLease(batch_id, key_id, rows[0][0])
        found = await pool.read(sql.OWNER, batch_id, key_id)
        if found and found[0][0] is not None:
            raise Owned(Node(*found[0]))
        raise _no_batch(batch_id)

    async def _leased(self, lease: BatchLease, rows: Sequence[Found]) -> None:
        """Raises `Fenced`, if that is why there are no rows."""
        if not rows and not await self._host.pool.read(sql.LEASED, lease.batch_id, lease.token):
            raise Fenced(f"Another lease of {lease.batch_id} was granted, or it was deleted.")

    async def _under(self, lease: BatchLease, statement: str, *values: object) -> list[Found]:
        """A statement that gives rows if the lease is the latest."""
        rows = await self._host.pool.write(statement, lease.batch_id, lease.token, *values)
        if not rows:
            raise Fenced(f"Another lease of {lease.batch_id} was granted, or it was deleted.")
        return rows

    async def add_requests(self, lease: BatchLease, requests: Sequence[tuple[str, bytes]]) -> None:
        if not requests:
            return
        names, bodies = [name for name, _ in requests], [body for _, body in requests]
        await self._under(
            lease, sql.ADD_REQUESTS, len(requests), sum(map(len, bodies)), names, bodies
        )

    async def drop_requests(self, lease: BatchLease) -> None:
        await self._under(lease, sql.DROP_REQUESTS)

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
        kept = None if details is None else dumps(dict(details))
        rows = await self._under(
            lease,
            sql.CHANGE,
            *([*expected], state, kept, output_file, error_file, self._moment()),
        )
        return _batch(rows[0])

    async def cancel(self, batch_id: str, key_id: str) -> StoredBatch:
        rows = await self._host.pool.write(sql.CANCEL, _sane(batch_id), key_id, self._moment())
        if not rows:
            raise _no_batch(batch_id)
        return _batch(rows[0][:-1])

    async def claim(self, lease: BatchLease) -> BatchRequest | None:
        rows = await self._host.pool.write(sql.CLAIM, lease.batch_id, lease.token)
        await self._leased(lease, rows)
        return BatchRequest(*rows[0]) if rows else None

    async def settle(
        self, lease: BatchLease, number: int, state: RequestState, result: bytes = b""
    ) -> None:
        await self._under(lease, sql.SETTLE, number, state, result)

    async def lost(self, lease: BatchLease) -> tuple[BatchRequest, ...]:
        rows = await self._under(lease, sql.LOST)
        return tuple(BatchRequest(number, name, b"") for number, name in rows if name is not None)

    async def close(self, lease: BatchLease, state: Literal["canceled", "expired"]) -> None:
        await self._under(lease, sql.CLOSE, state)

    async def get(self, batch_id: str, key_id: str) -> StoredBatch:
        rows = await self._host.pool.read(sql.GET_BATCH, _sane(batch_id), key_id)
        if not rows:
            raise _no_batch(batch_id)
        return _batch(rows[0])

    async def page(
        self,
        key_id: str,
        dialect: Dialect,
        *,
        limit: int,
        after: str | None = None,
        before: str | None = None,
    ) -> BatchPage:
        border, named = None, before or after
        if named is not None:
            found = await self._host.pool.read(sql.NUMBER, _sane(named), key_id, dialect)
            if not found:
                raise _no_batch(named)
            border = found[0][0]
        rows = await self._host.pool.read(
            sql.batches(before=before is not None), key_id, dialect, border, limit + 1
        )
        batches = [*map(_batch, rows[:limit])]
        if before is not None:
            batches.reverse()
        return BatchPage(tuple(batches), len(rows) > limit)

    async def results(
        self, batch_id: str, key_id: str, first: int = 1, limit: int = 100
    ) -> tuple[BatchResult, ...]:
        rows = await self._host.pool.read(sql.RESULTS, _sane(batch_id), key_id, first, limit)
        if not rows:
            await self.get(batch_id, key_id)
        return tuple(BatchResult(*row) for row in rows)

    async def delete(self, batch_id: str, key_id: str) -> None:
        if not await self._host.pool.write(sql.DELETE_BATCH, _sane(batch_id), key_id):
            raise _no_batch(batch_id)

    async def prune(self) -> None:
        await self._host.pool.write(sql.PRUNE_BATCHES, self._moment())


def _sane(name: str) -> str:
    """A client's name for something, as PostgreSQL can compare it."""
    return name.replace("\0", "\ufffd")


def _no_file(file_id: str) -> Missing:
    return Missing(f"There is no file {file_id}.")


def _no_batch(batch_id: str) -> Missing:
    return Missing(f"There is no batch {batch_id}.")


def _file(row: Found) -> StoredFile:
    id, key_id, purpose, name, size, created_at, expires_at = row
    return StoredFile(
        id=id,
        key_id=key_id,
        purpose=purpose,
        name=name,
        bytes=size,
        created_at=created_at,
        expires_at=expires_at,
    )


def _batch(row: Found) -> StoredBatch:
    id, key_id, dialect, endpoint, input_file, state, created_at, expires_at, kept, *rest = row
    times, details, output_file, error_file, *counts = rest
    return StoredBatch(
        id=id,
        key_id=key_id,
        dialect=dialect,
        endpoint=endpoint,
        input_file=input_file,
        state=state,
        created_at=created_at,
        expires_at=expires_at,
        kept_until=kept,
        times=loads(times.encode()),
        details=loads(bytes(details)),
        output_file=output_file,
        error_file=error_file,
        counts=Counts(*counts),
    )
