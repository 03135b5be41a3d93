"""The keys in a store's database, for a program that stands beside the gateway: ``ccapi key``.
(`transport.store.postgres.key_table` has those of PostgreSQL.)

Knows: how another process changes one table of a database that a gateway has open. Refuses to
know: what a key may do.

The gateway holds the lock on the folder (`files.FolderLock`), under which nothing but it migrates
and restores. Keys are written without that lock, in one short transaction (SQLite's own locks are
between the two), if the tables are of this version. Where no gateway runs, this process holds the
lock itself, and makes the database or brings it to this version.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Protocol

from ...schemas.keys import ApiKey
from .database import connect, reason_of
from .files import DATABASE, FolderLock, make_private
from .interface import StoreError, StoreInUse, StoreRefused, Unavailable
from .schema import MIGRATIONS, migrate, version_of
from .sqlite import SqliteEngine

PATIENCE_SECONDS = 5.0
"""How long a gateway that is just starting may take to have its tables ready."""


class Keys(Protocol):
    """The keys of a store. Each change is durable when it returns; the methods raise what those of
    `interface.Store` do."""

    def keys(self) -> list[ApiKey]: ...
    def add(self, key: ApiKey) -> None: ...
    def revoke(self, key_id: str) -> None: ...
    def delete(self, key_id: str) -> None: ...


class KeyTable:
    """See `Keys`. Made by `open_key_table`; the methods raise `sqlite3.Error` too."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._db = connection
        self._engine = SqliteEngine(connection, "")

    def keys(self) -> list[ApiKey]:
        return self._engine.keys()

    def add(self, key: ApiKey) -> None:
        with self._transaction():
            self._engine.add_key(key)

    def revoke(self, key_id: str) -> None:
        with self._transaction():
            self._engine.revoke_key(key_id, time.time())

    def delete(self, key_id: str) -> None:
        with self._transaction():
            self._engine.delete_key(key_id)

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("begin immediate")
        try:
            yield
            self._db.execute("commit")
        except BaseException:
            if self._db.in_transaction:
                self._db.execute("rollback")
            raise


@contextmanager
def open_key_table(place: Path | str) -> Iterator[Keys]:
    """The keys of the store in a folder, or at a URL, whether a gateway has it open or not. Raises
    `StoreRefused`, and `Unavailable` with what is wrong for the operator."""
    if isinstance(place, str):
        try:
            from .postgres.key_table import open_shared_keys
        except ImportError as error:
            raise without_extra(error) from error
        with open_shared_keys(place) as keys:
            yield keys
        return
    with _open_local_keys(place) as table:
        yield table


def without_extra(error: ImportError) -> StoreRefused:
    """What to do where psycopg is not installed."""
    return StoreRefused(
        f"storage.url needs psycopg ({error}): pip install 'claude-code-api[cluster]'."
    )


@contextmanager
def _open_local_keys(folder: Path) -> Iterator[KeyTable]:
    path = folder / DATABASE
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = FolderLock(path)
        try:
            was_closed = lock.take()
        except StoreInUse:
            with closing(_beside_a_gateway(path)) as connection:
                yield KeyTable(connection)
            return
        try:
            make_private(path)
            with closing(connect(path, writes=True)) as connection:
                migrate(connection, str(path))
                yield KeyTable(connection)
        finally:
            # A gateway that did not close its database still has to look through it.
            lock.free(closed=was_closed)
    except (sqlite3.Error, OSError) as error:
        raise Unavailable(reason_of(error, path)) from error


def _beside_a_gateway(path: Path) -> sqlite3.Connection:
    """Raises `StoreRefused`, `sqlite3.Error`."""
    until = time.monotonic() + PATIENCE_SECONDS
    while True:
        connection = connect(path, writes=True) if path.exists() else None
        version = 0 if connection is None else version_of(connection, str(path))
        if connection is not None and version == len(MIGRATIONS):
            return connection
        if connection is not None:
            connection.close()
        if time.monotonic() > until:
            raise StoreRefused(
                f"The gateway that has {path} open is of an older version: start it again with "
                "this one, then make the key."
            )
        time.sleep(0.1)


def has_keys(place: Path | str) -> bool:
    """Whether the store there has any key, so that clients need one. Never raises: where it cannot
    be read, none is known."""
    if isinstance(place, str):
        try:
            return bool(stored_keys(place))
        except StoreError:
            return False
    path = place / DATABASE
    try:
        if not path.exists():
            return False
        with closing(connect(path, writes=False)) as connection:
            return bool(connection.execute("select 1 from api_key limit 1").fetchone())
    except (sqlite3.Error, OSError):
        return False


def stored_keys(url: str) -> list[ApiKey]:
    """The keys in a shared database; none where it has no tables yet. Raises `StoreError`."""
    try:
        from .postgres.key_table import open_shared_keys
    except ImportError as error:
        raise without_extra(error) from error
    with open_shared_keys(url, may_be_empty=True) as keys:
        return keys.keys()
