"""Opening the store that the settings ask for.

Knows: which implementation that is, and what belongs to its life: threads, files, the look through
the database after a process that did not close it.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from .database import Database
from .files import DATABASE
from .interface import Store
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
async def open_store(folder: Path | None) -> AsyncIterator[Store]:
    """The store in `folder`; None: in memory. Raises as `open_sqlite_store`."""
    opened = open_memory_store() if folder is None else open_sqlite_store(folder)
    async with opened as store:
        yield store
