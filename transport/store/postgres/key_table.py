"""The keys of a store in PostgreSQL, for a program that stands beside the gateways: ``ccapi key``.

Knows: one connection that waits, for a command that does one thing. Refuses to know: what a key may
do.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager

import psycopg

from ....schemas.keys import ApiKey
from ..interface import Missing, NameTaken, StoreRefused, Unavailable
from . import statements as sql
from .connection import Text
from .pool import first_line, parameters_and_threads, place_of
from .rows import key_of, values_of_key
from .schema import IS_OURS, MARKS, MIGRATIONS, VERSION, judged
from .trio_connection import Row

CONNECT_SECONDS = 3


class SharedKeys:
    """See `store.key_table.Keys`. Made by `open_shared_keys`."""

    def __init__(
        self, connection: psycopg.Connection[Row], place: str, *, is_empty: bool = False
    ) -> None:
        self._connection = connection
        self._place = place
        self._is_empty = is_empty

    def _run(self, statement: str, *values: object) -> list[Row]:
        try:
            cursor = self._connection.cursor(binary=True)
            return cursor.execute(statement.encode(), values).fetchall()
        except psycopg.Error as error:
            raise Unavailable(f"{self._place}: {first_line(error)}.") from error

    def keys(self) -> list[ApiKey]:
        if self._is_empty:
            return []
        return [key_of(row) for _, *row in self._run(sql.KEYS, None) if row[0] is not None]

    def add(self, key: ApiKey) -> None:
        if not self._run(sql.ADD_KEY, *values_of_key(key)):
            raise NameTaken(f"There is a key called {key.name} already.")

    def revoke(self, key_id: str) -> None:
        if not self._run(sql.REVOKE_KEY, key_id, None):
            raise Missing("There is no such key.")

    def delete(self, key_id: str) -> None:
        if not self._run(sql.DELETE_KEY, key_id):
            raise Missing("There is no such revoked key.")


@contextmanager
def open_shared_keys(url: str, *, may_be_empty: bool = False) -> Iterator[SharedKeys]:
    """The keys of the store at `url`. Raises `StoreRefused` where its tables are not of this
    version (`may_be_empty`: or not there), `Unavailable`."""
    with connected(url) as (connection, place):
        try:
            version = version_in(connection, place)
        except psycopg.Error as error:
            raise Unavailable(f"{place}: {first_line(error)}.") from error
        if version != len(MIGRATIONS) and (version or not may_be_empty):
            raise StoreRefused(
                f"{place} is not of this version of the program: run `ccapi store migrate`."
            )
        yield SharedKeys(connection, place, is_empty=not version)


@contextmanager
def connected(url: str) -> Iterator[tuple[psycopg.Connection[Row], str]]:
    """A connection that waits, and what the database is called. Raises `StoreRefused`,
    `Unavailable`."""
    parameters, _ = parameters_and_threads(url)
    place = place_of(parameters)
    given = {"connect_timeout": CONNECT_SECONDS, **parameters, "client_encoding": "UTF8"}
    try:
        connection = psycopg.connect(
            autocommit=True, cursor_factory=psycopg.RawCursor[Row], **given
        )
    except psycopg.Error as error:
        raise Unavailable(f"{place} cannot be reached ({first_line(error)}).") from error
    with closing(connection):
        connection.adapters.register_dumper(str, Text)
        yield connection, place


def version_in(connection: psycopg.Connection[Row], place: str) -> int:
    """See `schema.version_of`. Raises `StoreRefused`, `psycopg.Error`."""
    [(ours, tables)] = connection.cursor().execute(IS_OURS.encode(), [MARKS]).fetchall()
    if not tables:
        return 0
    found: list[Row] = []
    if ours == len(MARKS):
        found = connection.execute(VERSION.encode()).fetchall()
    return judged(found, place)
