"""The files of the SQLite store: the lock on their folder, and whether they are still there.

Knows: ``ccapi.db`` with its write-ahead log, ``ccapi.db.lock`` with the pid of the process that
has it open, ``ccapi.db.restored``, a copy that is on its way to the first one's place, and
``ccapi.db.replaced``, what stood there before.
"""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from pathlib import Path

from .interface import StoreInUse

DATABASE = "ccapi.db"
"""The database, under ``storage.path``."""


class FolderLock:
    """Says that this process has the database open. The system lets go of it when the process
    ends; what stands in the file then says that it did not end by itself."""

    def __init__(self, database: Path) -> None:
        self._path = database.with_name(database.name + ".lock")
        self._file: int | None = None

    @property
    def is_held(self) -> bool:
        return self._file is not None

    @property
    def is_there(self) -> bool:
        """Whether others would find the file that is locked."""
        if self._file is None:
            return False
        try:
            return os.path.samestat(os.fstat(self._file), self._path.stat())
        except OSError:
            return False

    def take(self) -> bool:
        """Says whether the process that had it before closed its database. Raises `StoreInUse`,
        `OSError`."""
        file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(file, 32, 0).decode("ascii", "replace").strip()
            os.close(file)
            pid = int(holder) if holder.isdigit() else None
            raise StoreInUse(
                f"Another gateway (process {holder or 'unknown'}) has {self._path.parent} open: "
                "end it, or set storage.path to another folder.",
                pid,
            ) from None
        except BaseException:
            os.close(file)
            raise
        was_closed = not os.pread(file, 32, 0).strip()
        self.leave_alone()
        self._file = file
        with suppress(OSError):  # a full disk: the lock holds all the same
            os.ftruncate(file, 0)
            os.pwrite(file, f"{os.getpid()}\n".encode(), 0)
        return was_closed

    def free(self, *, closed: bool) -> None:
        """`closed`: the database is whole."""
        if self._file is not None and closed:
            with suppress(OSError):
                os.ftruncate(self._file, 0)
        self.leave_alone()

    def leave_alone(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None


class FileWatch:
    """Whether the open database's files are still those under its name. Never opens them: to close
    such a file again would free SQLite's own locks (https://sqlite.org/howtocorrupt.html, 2.2)."""

    def __init__(self, database: Path) -> None:
        # As text: they are looked at twice in each transaction.
        self._paths = (str(database), str(wal_of(database)))
        self._seen = self._look()

    def _look(self) -> tuple[tuple[int, int] | None, ...]:
        return tuple(_identity(path) for path in self._paths)

    def fault(self) -> str | None:
        """What happened to the files, if anything did. A write-ahead log that is new is ours."""
        now = self._look()
        for path, seen, found in zip(self._paths, self._seen, now, strict=True):
            if seen is not None and found is None:
                return f"{path} was deleted"
            if seen is not None and found != seen:
                return f"{path} was replaced by another file"
        self._seen = now
        return None

    @property
    def has_own_log(self) -> bool:
        """Whether the write-ahead log under its name is still the open database's."""
        return _identity(self._paths[1]) == self._seen[1]

    @property
    def is_replaced(self) -> bool:
        """Whether another database stands under its name."""
        found = _identity(self._paths[0])
        return found is not None and found != self._seen[0]


def _identity(path: str) -> tuple[int, int] | None:
    try:
        found = os.stat(path)  # noqa: PTH116 (a `Path` costs as much again)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def wal_of(database: Path) -> Path:
    return database.with_name(database.name + "-wal")


def make_private(database: Path) -> None:
    """Make an empty file that no other user can read. One that exists stays as it is. Raises
    `OSError`."""
    with suppress(FileExistsError):
        os.close(os.open(database, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))


def drop_companions(database: Path) -> None:
    """Remove what belongs to a database that is not here any more."""
    for end in ("-wal", "-shm"):
        database.with_name(database.name + end).unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Have the disk keep a file that no database has open, or a folder. Raises `OSError`."""
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)
