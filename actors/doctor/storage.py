"""What outlives the process: the store, and the disk that it is on.

Knows: which of the store's errors an operator can cure, and how much room there should be. Refuses
to know: tables.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path

import trio

from ...schemas.keys import ApiKey, count_words
from ...schemas.settings.rules import SettingsError
from ...schemas.settings.settings import check_exposure
from ...transport.store.database import Damaged, connect, is_damage, reason_of
from ...transport.store.files import DATABASE
from ...transport.store.interface import StoreError, StoreRefused
from ...transport.store.key_table import stored_keys
from ...transport.store.schema import MIGRATIONS, version_of
from ...transport.store.sqlite import SqliteEngine
from ..keys.registry import owner_of
from .case import Case
from .finding import Finding, failed, ok, warning

LEAST_FREE = 100 * 1024 * 1024
"""Bytes of the disk below which a gateway soon cannot write."""

SCARCE_FREE = 1024 * 1024 * 1024

LOOK_SECONDS = 10.0
"""Longest look through a database: 100,000 conversations take 0.2 seconds."""

STEPS = 100_000
"""SQLite's steps between two looks at the clock."""


EXTRA = "pip install 'claude-code-api[cluster]'"


async def check_disk(case: Case) -> Finding:
    """Whether the folder can be written to, and how much room there is."""
    folder = _folder(case)
    return await trio.to_thread.run_sync(_look_at_disk, folder, abandon_on_cancel=True)


def _look_at_disk(folder: Path) -> Finding:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"\0" * 4096)
            file.flush()
        free = shutil.disk_usage(folder).free
    except OSError as error:
        if error.errno == errno.ENOSPC:
            return failed("disk", f"the disk of {folder} is full", "Make room on it.")
        return failed(
            "disk",
            f"{folder} cannot be written to: {error.strerror}",
            "Give the gateway's user that folder, or set storage.path to another.",
        )
    text = f"{_gigabytes(free)} free at {folder}"
    if free < LEAST_FREE:
        return failed("disk", text, "Make room on it.")
    return warning("disk", text, "Make room on it.") if free < SCARCE_FREE else ok("disk", text)


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.1f} GB"


async def check_store(case: Case) -> Finding:
    """Whether the database can be opened, which process has it, and whether it is whole."""
    if not case.settings.storage.persist:
        await trio.lowlevel.checkpoint()
        return ok("store", "conversations are kept in memory only (storage.persist is off)")
    url = case.settings.storage.url
    if url:
        return await trio.to_thread.run_sync(_look_at_shared_store, url, abandon_on_cancel=True)
    look = partial(_look_at_store, _folder(case) / DATABASE, gateway=case.gateway)
    return await trio.to_thread.run_sync(look, abandon_on_cancel=True)


def _look_at_shared_store(url: str) -> Finding:
    try:
        from ...transport.store.postgres.copying import look_at
        from ...transport.store.postgres.schema import MIGRATIONS as CURRENT
    except ImportError as error:
        return failed("store", f"psycopg is missing ({error})", EXTRA)
    try:
        engine, version, count = look_at(url)
    except StoreRefused as error:
        reason, _, cure = str(error).partition(": ")
        return failed("store", reason, f"{cure[:1].upper()}{cure[1:]}")
    except StoreError as error:
        cure = "Start it, or set storage.url to another database or user."
        return failed("store", str(error).rstrip("."), cure)
    if not version:
        return ok("store", f"{engine} is empty: its tables will be made")
    if version < len(CURRENT):
        text = f"{engine} is of an older version of this program"
        return failed("store", text, "End the gateways that use it, then: ccapi store migrate")
    return ok("store", f"{engine} answers, and keeps {count} conversations")


def _look_at_store(path: Path, *, gateway: bool) -> Finding:
    if not path.exists():
        return ok("store", f"{path} will be made")
    try:
        with _unlocked(path) as holder:
            if holder is not None and not gateway:
                return failed(
                    "store",
                    f"another gateway (process {holder}) has {path.parent} open",
                    f"End it (kill {holder}), or set storage.path to another folder.",
                )
            text = f"{path} is {_look_through(path)}"
            return ok("store", f"{text}; process {holder} has it open" if holder else text)
    except (sqlite3.Error, OSError, StoreRefused) as error:
        reason, _, cure = reason_of(error, path).partition(": ")
        if is_damage(error) or isinstance(error, StoreRefused):
            return failed("store", reason, f"{cure[:1].upper()}{cure[1:]}")
        return failed("store", reason, "Give the gateway's user that file, and room on its disk.")


@contextmanager
def _unlocked(path: Path) -> Iterator[str | None]:
    """Keep gateways from opening it meanwhile; or give the process that has it open."""
    lock = path.with_name(path.name + ".lock")
    if not lock.exists():
        yield None
        return
    file = os.open(lock, os.O_RDONLY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            yield os.pread(file, 32, 0).decode("ascii", "replace").strip() or "unknown"
            return
        yield None
    finally:
        os.close(file)


def _look_through(path: Path) -> str:
    """Raises `sqlite3.Error`, `StoreRefused`."""
    until = time.monotonic() + LOOK_SECONDS
    with closing(connect(path, writes=False)) as connection:
        version_of(connection, str(path))
        connection.set_progress_handler(lambda: time.monotonic() > until, STEPS)
        try:
            found = [str(row[0]) for row in connection.execute("pragma quick_check(5)")]
        except sqlite3.OperationalError as error:
            if error.sqlite_errorname != "SQLITE_INTERRUPT":
                raise
            return f"readable, and so large that {LOOK_SECONDS:.0f} s do not look through it"
        connection.set_progress_handler(None, 0)
        if found != ["ok"]:
            raise Damaged("; ".join(found))
    return "whole"


async def check_keys(case: Case) -> Finding:
    """How many API keys hold, in the settings and in the database."""
    storage = case.settings.storage
    path = storage.url or _folder(case) / DATABASE if storage.persist else None
    try:
        stored = await trio.to_thread.run_sync(_stored_keys, path, abandon_on_cancel=True)
    except (sqlite3.Error, OSError, StoreError):
        return failed("keys", "those of the database cannot be read", "See to the store first.")
    own = {owner_of(key) for key in case.settings.auth.api_keys}
    count = len(own | {key.id for key in stored if key.revoked_at is None})
    try:
        check_exposure(case.settings, has_stored_keys=bool(stored))
    except SettingsError as error:
        return failed("keys", error.problems[0].reason, "ccapi key create NAME")
    if count:
        return ok("keys", count_words(count, len(own)))
    if stored:
        text = "all are revoked, so that no client gets in"
        return warning("keys", text, "`ccapi key create NAME`, or delete them: `ccapi key delete`.")
    return ok("keys", "none needed: this machine only")


def _stored_keys(path: Path | str | None) -> list[ApiKey]:
    """Empty where the tables are of a version that had no keys yet, or there are none.
    Raises `sqlite3.Error`, `StoreError`."""
    if isinstance(path, str):
        return stored_keys(path)
    if path is None or not path.exists():
        return []
    with closing(connect(path, writes=False)) as connection:
        # A start of the gateway brings tables to this version; what is in older ones is not read.
        is_current = version_of(connection, str(path)) == len(MIGRATIONS)
        return SqliteEngine(connection, "").keys() if is_current else []


def _folder(case: Case) -> Path:
    return case.settings.storage.path.expanduser().absolute()
