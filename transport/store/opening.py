"""Opening the store that the settings ask for.

Knows: which implementation that is, and what belongs to its life: threads, files, the look through
the database after a process that did not close it.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import trio

from .database import Database
from .files import DATABASE
from .interface import Store
from .key_table import without_extra
from .local import LocalStore, new_node
from .memory import open_memory_store
from .writer import Writer


@asynccontextmanager
async def open_sqlite_store(
    folder: Path, clock: Callable[[], float] = time.time
) -> AsyncIterator[LocalStore]:
    """The store in `folder`, while the block runs. Raises `StoreRefused`, `StoreInUse`. Whatever
    else is wrong with the folder is the store's `trouble`, until it is right again."""
    node = new_node()
    database = Database(folder / DATABASE, node.id)
    writer = Writer(database)
    await writer.open()
    async with trio.open_nursery() as nursery:
        await nursery.start(writer.run)
        try:
            yield LocalStore(writer, node, clock)
        finally:
            writer.stop()


@asynccontextmanager
async def open_store(
    place: Path | str | None, *, node_url: str = "", lease_seconds: float = 1.2
) -> AsyncIterator[Store]:
    """The store at `place`: a folder, the URL of a PostgreSQL database, or None: in memory. Raises
    as `open_sqlite_store`.

    `node_url` and `lease_seconds` are this node's among others, which only PostgreSQL can have;
    without a URL it is the only one that has the database open.
    """
    match place:
        case None:
            opened: AbstractAsyncContextManager[Store] = open_memory_store()
        case Path():
            opened = open_sqlite_store(place)
        case str():
            opened = _open_postgres_store(place, node_url, lease_seconds)
    async with opened as store:
        yield store


def _open_postgres_store(
    url: str, node_url: str, lease_seconds: float
) -> AbstractAsyncContextManager[Store]:
    """Raises `StoreRefused` where the extra is not installed, without which it is not imported."""
    try:
        from .postgres.store import open_postgres_store
    except ImportError as error:
        raise without_extra(error) from error
    return open_postgres_store(url, node_url=node_url, lease_seconds=lease_seconds)
