"""Files and batches in SQLite: the statements (`sqlite.SqliteEngine` has the rest).

Knows: SQL, one statement or few for each change. Refuses to know: in which transaction it runs.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal

from ...schemas.log.codec import dumps, loads
from .batch_engine import MAX_NUMBER, NUMBER_BITS
from .batch_interface import (
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
from .interface import Fenced, Full, Missing, StoreError

_FILE = "id, key_id, purpose, name, bytes, created_at, expires_at"

_BATCH = (
    "id, key_id, dialect, endpoint, input_file, state, created_at, expires_at, kept_until, times, "
    "details, output_file, error_file, total, succeeded, errored, canceled, expired"
)

_OPEN = "state in ('validating', 'in_progress', 'finalizing', 'cancelling')"

PRUNED_AT_ONCE = 20


class SqliteFiles:
    """See `batch_engine.FileTable`."""

    def __init__(self, connection: sqlite3.Connection, node_id: str) -> None:
        self._db = connection
        self._node_id = node_id

    def begin(self, file: StoredFile, bounds: FileBounds) -> None:
        begun = self._db.execute(
            "insert into file(id, key_id, purpose, name, bytes, created_at, expires_at, writer) "
            "select ?, ?, ?, ?, 0, ?, ?, ? "
            "where ? is null or (select count(*) from file where key_id = ?) < ?",
            (
                *(file.id, file.key_id, file.purpose, file.name, file.created_at),
                *(file.expires_at, self._node_id),
                *(bounds.max_files, file.key_id, bounds.max_files),
            ),
        )
        if not begun.rowcount:
            raise Full("max_files")

    def write(self, file_id: str, number: int, content: bytes, bounds: FileBounds) -> None:
        row = self._db.execute(
            "update file set bytes = bytes + ? where id = ? and writer = ? returning n, key_id",
            (len(content), file_id, self._node_id),
        ).fetchone()
        if row is None:
            raise _no_file(file_id)
        n, key_id = row
        if number > MAX_NUMBER:
            raise StoreError("The file has too many pieces.")
        if bounds.max_key_bytes is not None:
            sql = "select sum(bytes) from file where key_id = ?"
            if self._db.execute(sql, (key_id,)).fetchone()[0] > bounds.max_key_bytes:
                raise Full("max_key_bytes")
        if bounds.max_total_bytes is not None:
            (held,) = self._db.execute("select sum(bytes) from file").fetchone()
            if held > bounds.max_total_bytes:
                raise Full("max_total_bytes")
        self._db.execute("insert into piece values(?, ?)", (n << NUMBER_BITS | number, content))

    def finish(self, file: StoredFile) -> StoredFile:
        row = self._db.execute(
            "update file set purpose = ?, name = ?, expires_at = ?, writer = null "  # noqa: S608
            f"where id = ? and writer = ? returning {_FILE}",
            (file.purpose, file.name, file.expires_at, file.id, self._node_id),
        ).fetchone()
        if row is None:
            raise _no_file(file.id)
        return _file(row)

    def get(self, file_id: str, key_id: str, now: float) -> StoredFile:
        row = self._db.execute(
            f"select {_FILE} from file where id = ? and key_id = ? and expires_at > ? "  # noqa: S608
            "and writer is null",
            (file_id, key_id, now),
        ).fetchone()
        if row is None:
            raise _no_file(file_id)
        return _file(row)

    def read(self, file_id: str, number: int) -> bytes:
        row = self._db.execute(
            "select content from piece where id = (select n from file where id = ?) << ? | ?",
            (file_id, NUMBER_BITS, number),
        ).fetchone()
        return b"" if row is None else bytes(row[0])

    def page(
        self,
        key_id: str,
        limit: int,
        after: str | None,
        newest_first: bool,
        purpose: str | None,
        now: float,
    ) -> FilePage:
        border = None
        if after is not None:
            self.get(after, key_id, now)
            (border,) = self._db.execute("select n from file where id = ?", (after,)).fetchone()
        side, order = ("<", "desc") if newest_first else (">", "asc")
        rows = self._db.execute(
            f"select {_FILE} from file where key_id = ? and writer is null and expires_at > ? "  # noqa: S608
            f"and (? is null or purpose = ?) and (? is null or n {side} ?) "
            f"order by n {order} limit ?",
            (key_id, now, purpose, purpose, border, border, limit + 1),
        ).fetchall()
        return FilePage(tuple(map(_file, rows[:limit])), len(rows) > limit)

    def delete(self, file_id: str, key_id: str) -> None:
        row = self._db.execute(
            "delete from file where id = ? and key_id = ? returning n", (file_id, key_id)
        ).fetchone()
        if row is None:
            raise _no_file(file_id)
        self._drop_pieces(row[0])

    def prune(self, now: float) -> None:
        rows = self._db.execute(
            "delete from file where n in (select n from file where expires_at <= ? "
            "or (writer is not null and writer <> ?) limit ?) returning n",
            (now, self._node_id, PRUNED_AT_ONCE),
        ).fetchall()
        for (n,) in rows:
            self._drop_pieces(n)

    def _drop_pieces(self, n: int) -> None:
        first = n << NUMBER_BITS
        self._db.execute("delete from piece where id between ? and ?", (first, first + MAX_NUMBER))


class SqliteBatches:
    """See `batch_engine.BatchTable`."""

    def __init__(self, connection: sqlite3.Connection, node_id: str) -> None:
        self._db = connection
        self._node_id = node_id

    def add(self, batch: StoredBatch, max_open: int) -> BatchLease:
        added = self._db.execute(
            "insert into batch(id, key_id, dialect, endpoint, input_file, state, created_at, "  # noqa: S608
            "expires_at, kept_until, times, details, owner, token) "
            "select ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 1 where "
            f"(select count(*) from batch where key_id = ? and {_OPEN}) < ?",
            (
                *(batch.id, batch.key_id, batch.dialect, batch.endpoint, batch.input_file),
                *(batch.state, batch.created_at, batch.expires_at, batch.kept_until),
                *(dumps(dict(batch.times)).decode(), dumps(dict(batch.details)), self._node_id),
                *(batch.key_id, max_open),
            ),
        )
        if not added.rowcount:
            raise Full("max_open")
        return BatchLease(batch.id, batch.key_id, 1)

    def orphans(self, limit: int) -> list[tuple[str, str]]:
        return self._db.execute(
            f"select id, key_id from batch where {_OPEN} and owner <> ? order by n limit ?",  # noqa: S608
            (self._node_id, limit),
        ).fetchall()

    def acquire(self, batch_id: str, key_id: str) -> BatchLease:
        row = self._db.execute(
            "update batch set owner = ?, token = token + 1 where id = ? and key_id = ? "
            "returning token",
            (self._node_id, batch_id, key_id),
        ).fetchone()
        if row is None:
            raise _no_batch(batch_id)
        return BatchLease(batch_id, key_id, row[0])

    def _number(self, lease: BatchLease) -> int:
        row = self._db.execute(
            "select n from batch where id = ? and token = ?", (lease.batch_id, lease.token)
        ).fetchone()
        if row is None:
            raise Fenced(f"Another lease of {lease.batch_id} was granted, or it was deleted.")
        return int(row[0])

    def add_requests(self, lease: BatchLease, requests: Sequence[tuple[str, bytes]]) -> None:
        n = self._number(lease)
        size = sum(len(body) for _, body in requests)
        (total,) = self._db.execute(
            "update batch set total = total + ?, bytes = bytes + ? where n = ? returning total",
            (len(requests), size, n),
        ).fetchone()
        if total > MAX_NUMBER:
            raise StoreError("The batch has too many requests.")
        first = (n << NUMBER_BITS) + total - len(requests) + 1
        self._db.executemany(
            "insert into batch_request values(?, ?, ?, 'waiting', 0, ?, x'')",
            [(first + at, n, name, body) for at, (name, body) in enumerate(requests)],
        )

    def drop_requests(self, lease: BatchLease) -> None:
        n = self._number(lease)
        self._drop(n)
        self._db.execute(
            "update batch set bytes = 0, total = case state when 'validating' then 0 else total "
            "end where n = ?",
            (n,),
        )

    def _drop(self, n: int) -> None:
        first = n << NUMBER_BITS
        self._db.execute(
            "delete from batch_request where id between ? and ?", (first, first + MAX_NUMBER)
        )

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
        n = self._number(lease)
        marks = ", ".join("?" * len(expected))
        self._db.execute(
            "update batch set state = ?, times = json_set(times, ?, ?), "  # noqa: S608
            "details = coalesce(?, details), output_file = coalesce(?, output_file), "
            f"error_file = coalesce(?, error_file) where n = ? and state in ({marks})",
            (
                *(state, f"$.{state}", now, None if details is None else dumps(dict(details))),
                *(output_file, error_file, n, *expected),
            ),
        )
        return self.get(lease.batch_id, lease.key_id)

    def cancel(self, batch_id: str, key_id: str, now: float) -> StoredBatch:
        self._db.execute(
            "update batch set state = 'cancelling', times = json_set(times, '$.cancelling', ?) "
            "where id = ? and key_id = ? and state in ('validating', 'in_progress')",
            (now, batch_id, key_id),
        )
        return self.get(batch_id, key_id)

    def claim(self, lease: BatchLease) -> BatchRequest | None:
        n = self._number(lease)
        row = self._db.execute(
            "update batch_request set state = 'running', token = ? where id = "
            "(select id from batch_request where batch = ? and state = 'waiting' "
            "and (select state from batch where n = ?) = 'in_progress' order by id limit 1) "
            "returning id, custom_id, body",
            (lease.token, n, n),
        ).fetchone()
        return None if row is None else BatchRequest(row[0] & MAX_NUMBER, row[1], row[2])

    def settle(self, lease: BatchLease, number: int, state: RequestState, result: bytes) -> None:
        n = self._number(lease)
        settled = self._db.execute(
            "update batch_request set state = ?, result = ? where id = ? and state = 'running'",
            (state, result, n << NUMBER_BITS | number),
        )
        if settled.rowcount and state != "waiting":
            self._db.execute(
                f"update batch set {state} = {state} + 1, bytes = bytes + ? where n = ?",  # noqa: S608
                (len(result), n),
            )

    def lost(self, lease: BatchLease) -> list[BatchRequest]:
        n = self._number(lease)
        rows = self._db.execute(
            "select id, custom_id from batch_request where batch = ? and state = 'running' "
            "and token < ? order by id",
            (n, lease.token),
        )
        return [BatchRequest(id & MAX_NUMBER, custom_id, b"") for id, custom_id in rows]

    def close(self, lease: BatchLease, state: Literal["canceled", "expired"]) -> None:
        n = self._number(lease)
        closed = self._db.execute(
            "update batch_request set state = ? where batch = ? "
            "and state in ('waiting', 'running')",
            (state, n),
        )
        self._db.execute(
            f"update batch set {state} = {state} + ? where n = ?",  # noqa: S608
            (closed.rowcount, n),
        )

    def get(self, batch_id: str, key_id: str) -> StoredBatch:
        row = self._db.execute(
            f"select {_BATCH} from batch where id = ? and key_id = ?",  # noqa: S608
            (batch_id, key_id),
        ).fetchone()
        if row is None:
            raise _no_batch(batch_id)
        return _batch(row)

    def page(
        self, key_id: str, dialect: Dialect, limit: int, after: str | None, before: str | None
    ) -> BatchPage:
        side, order, border, named = "<", "desc", None, before or after
        if named is not None:
            row = self._db.execute(
                "select n from batch where id = ? and key_id = ? and dialect = ?",
                (named, key_id, dialect),
            ).fetchone()
            if row is None:
                raise _no_batch(named)
            border = row[0]
        if before is not None:
            side, order = ">", "asc"
        rows = self._db.execute(
            f"select {_BATCH} from batch where key_id = ? and dialect = ? "  # noqa: S608
            f"and (? is null or n {side} ?) order by n {order} limit ?",
            (key_id, dialect, border, border, limit + 1),
        ).fetchall()
        found = [*map(_batch, rows[:limit])]
        if before is not None:
            found.reverse()
        return BatchPage(tuple(found), len(rows) > limit)

    def results(self, batch_id: str, key_id: str, first: int, limit: int) -> list[BatchResult]:
        row = self._db.execute(
            "select n from batch where id = ? and key_id = ?", (batch_id, key_id)
        ).fetchone()
        if row is None:
            raise _no_batch(batch_id)
        begin = row[0] << NUMBER_BITS
        rows = self._db.execute(
            "select id, custom_id, state, result from batch_request where id between ? and ? "
            "and state not in ('waiting', 'running') order by id limit ?",
            (begin + first, begin + MAX_NUMBER, limit),
        )
        return [BatchResult(id & MAX_NUMBER, name, state, done) for id, name, state, done in rows]

    def delete(self, batch_id: str, key_id: str) -> None:
        row = self._db.execute(
            f"delete from batch where id = ? and key_id = ? and not ({_OPEN}) returning n",  # noqa: S608
            (batch_id, key_id),
        ).fetchone()
        if row is None:
            raise _no_batch(batch_id)
        self._drop(row[0])

    def prune(self, now: float) -> None:
        rows = self._db.execute(
            "delete from batch where n in (select n from batch "  # noqa: S608
            f"where kept_until <= ? and not ({_OPEN}) limit ?) returning n",
            (now, PRUNED_AT_ONCE),
        ).fetchall()
        for (n,) in rows:
            self._drop(n)


def held_bytes(connection: sqlite3.Connection) -> int:
    """What files and batches take."""
    sql = (
        "select (select coalesce(sum(bytes), 0) from {}) + (select coalesce(sum(bytes), 0) from {})"
    )
    (held,) = connection.execute(sql.format("file", "batch")).fetchone()
    return int(held)


def _no_file(file_id: str) -> Missing:
    return Missing(f"There is no file {file_id}.")


def _no_batch(batch_id: str) -> Missing:
    return Missing(f"There is no batch {batch_id}.")


def _file(row: Sequence[Any]) -> StoredFile:
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


def _batch(row: Sequence[Any]) -> StoredBatch:
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
        details=loads(details),
        output_file=output_file,
        error_file=error_file,
        counts=Counts(*counts),
    )
