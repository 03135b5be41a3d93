"""``ccapi store``: the database of conversations, brought to this version or copied into another.

Knows: what a place is called on a command line. Refuses to know: tables (`transport.store`).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ...schemas.settings.rules import DATABASES
from ...schemas.settings.settings import StorageSettings
from ...transport.store import key_table, schema
from ...transport.store.interface import StoreRefused


def place_named(name: str, storage: StorageSettings) -> Path | str:
    """A folder, or the URL of a database. Raises `StoreRefused`."""
    if name == "path":
        return storage.path.expanduser()
    if name == "url":
        if not storage.url:
            raise StoreRefused("storage.url is not set.")
        return storage.url
    return name if name.startswith(DATABASES) else Path(name).expanduser()


def migrate(place: Path | str) -> int:
    """Bring a store to this version; returns it. Raises `StoreError`."""
    if isinstance(place, str):
        try:
            from ...transport.store.postgres.copying import migrate_store
        except ImportError as error:
            raise key_table.without_extra(error) from error
        return migrate_store(place)
    # To open a folder that no gateway has open brings it to this version.
    with key_table.open_key_table(place):
        return len(schema.MIGRATIONS)


def copy(source: Path | str, target: Path | str) -> Sequence[str]:
    """Copy a store into an empty one; what was copied, in words. Raises `StoreError`."""
    try:
        from ...transport.store.postgres.copying import copy_store, described
    except ImportError as error:
        raise key_table.without_extra(error) from error
    return described(copy_store(source, target)) or ["there was nothing to copy"]
