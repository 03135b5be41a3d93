"""The open database file: how it is opened, kept whole, found gone and made again.

Knows: one connection that writes, transactions, the write-ahead log, and what each of SQLite's
errors means to an operator. Refuses to know: threads (`transport.store.writer`) and tables
(`transport.store.sqlite`).
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from ..loggers import get_logger
from .files import FileWatch, FolderLock, drop_companions, make_private, sync
from .interface import StoreInUse, StoreRefused, Unavailable
from .schema import migrate, version_of
from .sqlite import SqliteEngine

T = TypeVar("T")

log = get_logger("ccapi.store")

BUSY_SECONDS = 0.5
"""How long a change waits for another program that has the database locked."""

WAL_LIMIT = 64 * 1024 * 1024
"""Bytes that the write-ahead log keeps of the disk once its pages are in the database."""

MOST_FREE_PAGES = 4096
"""Pages of the database that may be free, to be used again, before some are given back."""

CACHE_KIB = 16 * 1024


def connect(path: Path, *, writes: bool) -> sqlite3.Connection:
    """A connection that any thread may use, one at a time. Raises `StoreRefused`, `sqlite3.Error`;
    `writes` makes the database one with a write-ahead log."""
    mode = "rw" if writes else "ro"
    connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode={mode}",
        uri=True,
        timeout=BUSY_SECONDS,
        isolation_level=None,
        check_same_thread=False,
        cached_statements=256,
    )
    try:
        connection.execute(f"pragma cache_size = -{CACHE_KIB}")
        if writes:
            # Looked at first: some of these write to a database that shall be refused.
            if not version_of(connection, str(path)):
                # Before the first table, or never.
                connection.execute("pragma auto_vacuum = incremental")
            connection.execute("pragma journal_mode = wal")
            connection.execute("pragma synchronous = normal")
            connection.execute("pragma wal_autocheckpoint = 0")
            connection.execute(f"pragma journal_size_limit = {WAL_LIMIT}")
            connection.execute("pragma temp_store = memory")
        else:
            connection.execute("pragma query_only = 1")
    except BaseException:
        connection.close()
        raise
    return connection


class Damaged(sqlite3.DatabaseError):
    """The database was looked through, and is not whole."""


class Database:
    """The file and the connection that writes to it. One thread at a time calls its methods.

    `generation` counts how often it was opened: a reader of an older one must open it again.
    """

    def __init__(self, path: Path, node_id: str) -> None:
        self.path = path
        self.node_id = node_id
        self.generation = 0
        self.unclean = False
        """Whether the process that had it before did not close it."""
        self.damage: str | None = None
        self._lock = FolderLock(path)
        self._connection: sqlite3.Connection | None = None
        self._watch: FileWatch | None = None

    @property
    def is_open(self) -> bool:
        return self._connection is not None

    def open(self) -> None:
        """Raises `StoreRefused`, `OSError`, `sqlite3.Error`. Does nothing while it is open."""
        if self._connection is not None:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not self._lock.is_there:
            self.unclean = not self._lock.take()
        restored = _restored(self.path)
        if restored.exists():
            # It is whole, and has all that was acknowledged: `_restore` did not come to its end.
            with suppress(FileNotFoundError):
                self.path.replace(self.path.with_name(self.path.name + ".replaced"))
            drop_companions(self.path)
            restored.replace(self.path)
        make_private(self.path)
        connection = connect(self.path, writes=True)
        try:
            migrate(connection, str(self.path))
            # The write-ahead log is there from now on, and can be watched.
            connection.execute("begin immediate")
            connection.execute("update counter set value = value where name = 'token'")
            connection.execute("commit")
            self._watch = FileWatch(self.path)
        except BaseException:
            connection.close()
            raise
        self._connection = connection
        self.damage = None
        self.generation += 1

    def close(self) -> None:
        """Close it, all in its place. Never raises."""
        whole = self.damage is None
        if self._connection is not None:
            try:
                if whole:
                    self.confirm()
                    self._connection.execute("pragma wal_checkpoint(truncate)")
            except (sqlite3.Error, OSError, StoreRefused):
                whole = False
            self.drop()
            self._lock.free(closed=whole)
        self._lock.leave_alone()

    def drop(self) -> None:
        """Let go of the connection; what was not committed is not done."""
        if self._connection is not None:
            with suppress(sqlite3.Error):
                # A cursor that is not read to its end keeps a closed connection, and its locks.
                if self._connection.in_transaction:
                    self._connection.execute("rollback")
            with suppress(sqlite3.Error):
                self._connection.close()
            self._connection = None

    # -- transactions ------------------------------------------------------------------------------

    def transaction(self, work: Callable[[SqliteEngine, Callable[[str], object]], T]) -> T:
        """Do `work` in one transaction; it may set savepoints with what it is given. Raises what it
        does, `sqlite3.Error`, `OSError`, `StoreRefused`: then nothing of it is done."""
        self._ensure()
        db = self._connection
        assert db is not None
        db.execute("begin immediate")
        try:
            result = work(SqliteEngine(db, self.node_id), db.execute)
            db.execute("commit")
        except Exception:
            if db.in_transaction:
                db.execute("rollback")
            raise
        return result

    def _ensure(self) -> None:
        if self.damage is not None and self.is_open:
            if self.is_there:
                raise Damaged(self.damage)
            # The damaged file was taken away: what stands there now is taken instead, without the
            # damaged one's write-ahead log.
            assert self._watch is not None
            has_own_log = self._watch.has_own_log
            self.drop()
            if has_own_log:
                drop_companions(self.path)
        self.open()
        self.confirm()

    @property
    def is_there(self) -> bool:
        """Whether the next process would find what is written."""
        return self._watch is not None and self._watch.fault() is None

    def confirm(self) -> None:
        """See that the files are where the next process will look for them. Where they were
        deleted, the connection still has all of it, and it is written again. Raises `OSError`,
        `sqlite3.Error`: then nothing is lost as long as this process lives."""
        assert self._watch is not None
        fault = self._watch.fault()
        if fault is None:
            return
        if self._watch.is_replaced:
            raise FileNotFoundError(f"{fault} while this gateway had it open: start it again")
        self._restore()
        log.warning("store_files_made_again", reason=fault)

    def _restore(self) -> None:
        assert self._connection is not None
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not self._lock.is_there:
            self._lock.take()
        partial = self.path.with_name(self.path.name + ".partial")
        partial.unlink(missing_ok=True)
        try:
            make_private(partial)
            copy = sqlite3.connect(partial)
            try:
                self._connection.backup(copy)
            finally:
                copy.close()
            sync(partial)
        except BaseException:
            partial.unlink(missing_ok=True)  # a full disk needs the room
            raise
        finally:
            drop_companions(partial)
        partial.replace(_restored(self.path))
        # Closed before the new one opens: SQLite removes the log of what it closes by its name.
        self.drop()
        self.path.unlink(missing_ok=True)
        self.open()
        sync(self.path.parent)

    def checkpoint(self) -> None:
        """Bring the write-ahead log's pages into the database. A failure keeps them where they are:
        nothing is lost."""
        if self._connection is not None and self.damage is None:
            with suppress(sqlite3.Error):
                self._connection.execute("pragma wal_checkpoint(passive)").fetchall()

    def give_back(self) -> None:
        """Give free pages back to the disk, some of them."""
        if self._connection is not None and self.damage is None:
            with suppress(sqlite3.Error):
                free = self._connection.execute("pragma freelist_count").fetchone()[0]
                if free > MOST_FREE_PAGES:
                    self._connection.execute("pragma incremental_vacuum(1000)").fetchall()


def _restored(path: Path) -> Path:
    return path.with_name(path.name + ".restored")


def is_damage(error: BaseException) -> bool:
    """Whether the error says that the file is not whole."""
    name = getattr(error, "sqlite_errorname", "") or ""
    return isinstance(error, Damaged) or name.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB"))


def reason_of(error: BaseException, path: Path) -> str:
    """What is wrong, for the operator."""
    if isinstance(error, StoreInUse | StoreRefused):
        return str(error)
    if is_damage(error):
        return (
            f"{path} is damaged ({error}): move it away, or put a copy of it in its place. Nothing "
            "is written to it."
        )
    name: Any = getattr(error, "sqlite_errorname", None) or ""
    if name.startswith("SQLITE_FULL") or getattr(error, "errno", None) == 28:
        return f"The disk of {path} is full."
    if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
        return f"Another program has {path} locked."
    if name.startswith(("SQLITE_READONLY", "SQLITE_CANTOPEN", "SQLITE_PERM")):
        return f"{path} cannot be written ({error})."
    if isinstance(error, OSError) and not isinstance(error, sqlite3.Error):
        return f"{path} cannot be used ({error})."
    return f"{path} cannot be used ({error}{', ' + name if name else ''})."


def unavailable(error: BaseException, path: Path) -> Unavailable:
    return Unavailable(reason_of(error, path))
