"""One store copied into another one: from SQLite to PostgreSQL and back.

Knows: what each kept row is in both, and how it is seen that all of it came over. Refuses to know:
who asks.

Both are looked at from the inside, in one transaction each, while no gateway has them open. The
target has to be empty. All is copied, read again from the target and compared, row by row, before
the target keeps any of it. What is searched for is indexed again by the gateway.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path
from typing import Any, Protocol

import psycopg
from attrs import astuple, frozen

from ....schemas.log.codec import dumps, encode_usage, loads
from ....schemas.turn import Usage
from ..batch_engine import MAX_NUMBER, NUMBER_BITS
from ..database import connect, reason_of
from ..engine import MAX_RECORDS
from ..files import DATABASE, FolderLock, make_private
from ..interface import StoreInUse, StoreRefused, Unavailable
from ..schema import SEQ_BITS, migrate
from . import statements as sql
from .key_table import connected, version_in
from .pool import first_line
from .schema import MIGRATIONS, ONE_AT_A_TIME

Row = tuple[Any, ...]

_USED = ", ".join(sql.FIGURES)


@frozen
class Table:
    """One table: its columns in PostgreSQL, and what has the same rows in SQLite, in the same
    order. `read` makes a row of SQLite's one of PostgreSQL's, `write` the other way."""

    name: str
    columns: str
    order: str
    select: str
    insert: str
    read: Callable[[Row], Row] = lambda row: row
    write: Callable[[Row], Row] = lambda row: row
    source: str = ""

    @property
    def from_postgres(self) -> str:
        source = self.source or f"select {self.columns} from {self.name}"
        return f"{source} order by {self.order}"


PRIVATE, GRANTS, USAGE = 8, 10, 20
"""Columns of a conversation that the two keep in different forms."""


def _conversation_in(row: Row) -> Row:
    columns = [*row[:USAGE], *astuple(Usage(*loads(row[USAGE]))), *row[USAGE + 1 :]]
    columns[PRIVATE], columns[GRANTS] = bool(row[PRIVATE]), list(loads(row[GRANTS]))
    return tuple(columns)


def _conversation_out(row: Row) -> Row:
    figures = len(sql.FIGURES)
    usage = dumps(encode_usage(Usage(*row[USAGE : USAGE + figures])))
    columns = [*row[:USAGE], usage, *row[USAGE + figures :]]
    columns[PRIVATE], columns[GRANTS] = int(row[PRIVATE]), dumps(list(row[GRANTS]))
    return tuple(columns)


def _placed(row: Row) -> Row:
    """The row id of a record, from its conversation and number."""
    return (row[0] << SEQ_BITS) + row[1], *row[2:]


def _numbered(row: Row) -> Row:
    """The row id of a file's piece, or of a batch's request."""
    return (row[0] << NUMBER_BITS) + row[1], *row[2:]


_NUMBER = f"id >> {NUMBER_BITS}, id & {MAX_NUMBER}"
_BATCH = (
    "id, key_id, dialect, endpoint, input_file, state, created_at, expires_at, kept_until, times, "
    "details, output_file, error_file, total, succeeded, errored, canceled, expired, bytes, owner, "
    "token"
)
_SEQ = f"id >> {SEQ_BITS}, id & {MAX_RECORDS}"
_HELD = "select {owner}.n, digest, content from part_use join part using(digest) join {owner} on "

TABLES = (
    Table(
        "conversation",
        "n, id, key_id, setup, model, profile, workspace, metadata, private, title, grants, "
        "created_at, used_at, token, head, last_turn, open_turn, lost_turn, turns, messages, "
        f"{_USED}, bytes",
        "n",
        "select n, id, key_id, setup, model, profile, workspace, metadata, private, title, grants, "
        "created_at, used_at, token, head, last_turn, open_turn, lost_turn, turns, messages, "
        "usage, bytes from conversation order by n",
        "insert into conversation(n, id, key_id, setup, model, profile, workspace, metadata, "
        "private, title, grants, created_at, used_at, token, head, last_turn, open_turn, "
        f"lost_turn, turns, messages, usage, bytes) values({', '.join('?' * 22)})",
        _conversation_in,
        _conversation_out,
    ),
    Table(
        "log",
        "n, seq, token, turn, at, kind, body",
        "n, seq",
        f"select {_SEQ}, token, turn, at, kind, body from log order by id",
        "insert into log values(?, ?, ?, ?, ?, ?)",
        write=_placed,
    ),
    Table(
        "turn",
        "n, number, turn_id, request_id, state, first, last",
        "n, number",
        "select * from turn order by n, number",
        "insert into turn values(?, ?, ?, ?, ?, ?, ?)",
    ),
    Table(
        "unit",
        "n, first, last",
        "n, first",
        f"select first >> {SEQ_BITS}, first & {MAX_RECORDS}, last & {MAX_RECORDS} from unit "
        "order by first",
        "insert into unit values(?, ?, 0)",
        write=lambda row: ((row[0] << SEQ_BITS) + row[1], (row[0] << SEQ_BITS) + row[2]),
        source="select n, first, last from (select n, first, last from unit union all "
        "select n, first, last from word) each",
    ),
    Table(
        "part",
        "n, digest, content",
        "n, digest",
        f"{_HELD.format(owner='conversation')} id = holder order by n, digest",
        "",
    ),
    Table(
        "lineage",
        "key_id, digest, n, seq, put",
        "key_id, digest, n",
        "select * from lineage order by key_id, digest, n",
        "insert into lineage values(?, ?, ?, ?, ?)",
    ),
    Table(
        "usage",
        f"key_id, hour, model, turns, {_USED}",
        "key_id, hour, model",
        f"select key_id, hour, model, turns, {_USED} from usage order by key_id, hour, model",
        f"insert into usage(key_id, hour, model, turns, {_USED}) values({', '.join('?' * 10)})",
    ),
    Table(
        "api_key",
        "n, id, name, scopes, models, limits, created_at, revoked_at",
        "n",
        "select n, id, name, scopes, models, limits, created_at, revoked_at from api_key "
        "order by n",
        "insert into api_key(n, id, name, scopes, models, limits, created_at, revoked_at) "
        "values(?, ?, ?, ?, ?, ?, ?, ?)",
    ),
    Table(
        "response",
        "n, id, key_id, conversation_id, created_at, expires_at, bytes, body",
        "n",
        "select n, id, key_id, conversation_id, created_at, expires_at, bytes, body from response "
        "order by n",
        "insert into response(n, id, key_id, conversation_id, created_at, expires_at, bytes, body) "
        "values(?, ?, ?, ?, ?, ?, ?, ?)",
    ),
    Table(
        "response_part",
        "n, digest, content",
        "n, digest",
        f"{_HELD.format(owner='response')} id = holder order by n, digest",
        "",
    ),
    Table(
        "request",
        "key_id, name, digest, node, state, expires_at, bytes, status, headers, body",
        "key_id, name",
        "select * from request order by key_id, name",
        f"insert into request values({', '.join('?' * 10)})",
    ),
    Table(
        "file",
        "n, id, key_id, purpose, name, bytes, created_at, expires_at, writer",
        "n",
        "select n, id, key_id, purpose, name, bytes, created_at, expires_at, writer from file "
        "order by n",
        "insert into file(n, id, key_id, purpose, name, bytes, created_at, expires_at, writer) "
        f"values({', '.join('?' * 9)})",
    ),
    Table(
        "piece",
        "n, number, content",
        "n, number",
        f"select {_NUMBER}, content from piece order by id",
        "insert into piece values(?, ?)",
        write=_numbered,
    ),
    Table(
        "batch",
        f"n, {_BATCH}",
        "n",
        f"select n, {_BATCH} from batch order by n",
        f"insert into batch(n, {_BATCH}) values({', '.join('?' * (_BATCH.count(',') + 2))})",
    ),
    Table(
        "batch_request",
        "n, number, custom_id, state, token, body, result",
        "n, number",
        f"select {_NUMBER}, custom_id, state, token, body, result from batch_request order by id",
        "insert into batch_request values(?, ?, ?, ?, ?, ?, ?)",
        write=lambda row: (_numbered(row)[0], row[0], *row[2:]),
    ),
)
"""In this order: what belongs to a conversation or a response comes behind it."""

NUMBERED = ("conversation", "api_key", "response", "file", "batch")
"""Tables whose numbers PostgreSQL gives."""


@frozen
class Copied:
    """How many rows of each table were copied."""

    rows: dict[str, int]


class End(Protocol):
    """One of the two stores, in a transaction."""

    name: str

    def rows(self, table: Table) -> Iterator[Row]:
        """All rows, in order."""
        ...

    def load(self, table: Table, rows: Iterable[Row]) -> None: ...
    def counters(self) -> tuple[int, int, int]:
        """The highest token, the highest lineage, the version of the keys."""
        ...

    def finish(self, counters: tuple[int, int, int]) -> None:
        """Keep what was loaded."""
        ...


def copy_store(source: Path | str, target: Path | str) -> Copied:
    """Copy all of a store into another, which is empty. Raises `StoreRefused`, `StoreInUse`,
    `Unavailable`; then the target is as it was."""
    counted: dict[str, int] = {}
    with _opened(source, loads_=False) as here, _opened(target, loads_=True) as there:
        for table in TABLES:
            if next(there.rows(table), None) is not None:
                raise StoreRefused(f"{there.name} is not empty: nothing was copied.")
        digests = {}
        for table in TABLES:
            counter = _Counter()
            there.load(table, counter.through(here.rows(table)))
            counted[table.name], digests[table.name] = counter.count, counter.digest
        for table in TABLES:
            again = _Counter()
            for _ in again.through(there.rows(table)):
                pass
            if (again.count, again.digest) != (counted[table.name], digests[table.name]):
                raise StoreRefused(
                    f"{there.name} has another {table.name} than {here.name}: nothing was copied."
                )
        there.finish(here.counters())
    return Copied(counted)


def _opened(place: Path | str, *, loads_: bool) -> AbstractContextManager[End]:
    return _postgres(place) if isinstance(place, str) else _sqlite(place, makes=loads_)


class _Counter:
    """Counts rows as they pass, and what they are."""

    def __init__(self) -> None:
        self.count = 0
        self._made = hashlib.sha256()

    @property
    def digest(self) -> bytes:
        return self._made.digest()

    def through(self, rows: Iterable[Row]) -> Iterator[Row]:
        for row in rows:
            self.count += 1
            for value in row:
                self._take(value)
            yield row

    def _take(self, value: object) -> None:
        match value:
            case bytes():
                self._made.update(f"b{len(value)} ".encode())
                self._made.update(value)
            case list():
                self._made.update(f"l{len(value)} ".encode())
                for each in value:
                    self._take(each)
            case _:
                written = repr(value).encode()
                self._made.update(f"{type(value).__name__}{len(written)} ".encode())
                self._made.update(written)


# -- SQLite ----------------------------------------------------------------------------------------


class _Sqlite:
    """See `End`."""

    def __init__(self, connection: sqlite3.Connection, name: str) -> None:
        self.name = name
        self._db = connection
        self._names: dict[tuple[str, int], str] = {}

    def rows(self, table: Table) -> Iterator[Row]:
        for row in self._db.execute(table.select):
            yield tuple(map(_plain, table.read(row)))

    def load(self, table: Table, rows: Iterable[Row]) -> None:
        if table.name in ("part", "response_part"):
            owner = "conversation" if table.name == "part" else "response"
            for n, digest, content in rows:
                self._db.execute(
                    "insert into part values(?, ?) on conflict do nothing", (digest, content)
                )
                self._db.execute(
                    f"insert into part_use values((select id from {owner} where n = ?), ?)",
                    (n, digest),
                )
            return
        self._db.executemany(table.insert, map(table.write, rows))

    def counters(self) -> tuple[int, int, int]:
        found = dict(self._db.execute("select name, value from counter"))
        return found["token"], found["lineage"], found["keys"]

    def finish(self, counters: tuple[int, int, int]) -> None:
        named = zip(counters, ("token", "lineage", "keys"), strict=True)
        self._db.executemany("update counter set value = ? where name = ?", named)
        self._db.execute("commit")


@contextmanager
def _sqlite(folder: Path, *, makes: bool) -> Iterator[End]:
    path = folder / DATABASE
    if not makes and not path.exists():
        raise StoreRefused(f"There is no store in {folder}.")
    lock = FolderLock(path)
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        was_closed = lock.take()
        try:
            make_private(path)
            with closing(connect(path, writes=True)) as connection:
                migrate(connection, str(path))
                connection.execute("begin immediate")
                yield _Sqlite(connection, str(path))
                if connection.in_transaction:
                    connection.execute("rollback")
                connection.execute("pragma wal_checkpoint(truncate)")
        finally:
            lock.free(closed=was_closed)
    except (sqlite3.Error, OSError) as error:
        raise Unavailable(reason_of(error, path)) from error


# -- PostgreSQL ------------------------------------------------------------------------------------


class _Postgres:
    """See `End`."""

    def __init__(self, connection: psycopg.Connection[Row], name: str) -> None:
        self.name = name
        self._connection = connection

    def rows(self, table: Table) -> Iterator[Row]:
        with psycopg.ServerCursor(self._connection, f"rows_of_{table.name}") as cursor:
            cursor.itersize = 200
            cursor.execute(table.from_postgres.encode(), binary=True)
            for row in cursor:
                yield tuple(map(_plain, row))

    def load(self, table: Table, rows: Iterable[Row]) -> None:
        into = f"copy {table.name}({table.columns}) from stdin"
        with self._connection.cursor() as cursor, cursor.copy(into.encode()) as copy:
            for row in rows:
                copy.write_row(row)

    def counters(self) -> tuple[int, int, int]:
        [found] = self._connection.execute(
            b"select (select last_value from token), (select last_value from lineage_put), "
            b"(select value from counter where name = 'keys')"
        ).fetchall()
        token, lineage, keys = found
        return token, lineage, keys

    def finish(self, counters: tuple[int, int, int]) -> None:
        token, lineage, keys = counters
        run = self._connection.execute
        run(
            b"select setval('token', greatest($1::bigint, 1)), "
            b"setval('lineage_put', greatest($2::bigint, 1))",
            [token, lineage],
        )
        run(b"update counter set value = $1::bigint where name = 'keys'", [keys])
        for name in NUMBERED:
            run(
                f"select setval(pg_get_serial_sequence('{name}', 'n'), "
                f"(select greatest(max(n), 1) from {name}))".encode()
            )
        run(b"commit")


@contextmanager
def _postgres(url: str) -> Iterator[End]:
    with alone(url) as (connection, place):
        try:
            connection.execute(b"begin isolation level repeatable read")
            yield _Postgres(connection, place)
            connection.execute(b"rollback")
        except psycopg.Error as error:
            raise Unavailable(f"{place}: {first_line(error)}.") from error


@contextmanager
def alone(url: str) -> Iterator[tuple[psycopg.Connection[Row], str]]:
    """The database while no gateway has it open, its tables of this version. Raises `StoreRefused`,
    `StoreInUse`, `Unavailable`."""
    with connected(url) as (connection, place):
        try:
            [(free,)] = connection.execute(sql.ALONE.encode()).fetchall()
            if not free:
                raise StoreInUse(f"A gateway has {place} open: end it.", None)
            _migrate(connection, place)
        except psycopg.Error as error:
            raise Unavailable(f"{place}: {first_line(error)}.") from error
        yield connection, place


def _migrate(connection: psycopg.Connection[Row], place: str) -> None:
    """See `schema.migrate`."""
    with connection.transaction():
        connection.execute(ONE_AT_A_TIME.encode())
        version = version_in(connection, place)
        for script in MIGRATIONS[version:]:
            for statement in script.strip().removesuffix(";").split(";\n"):
                connection.execute(statement.encode())
        connection.execute(
            b"update counter set value = $1::bigint where name = 'schema'", [len(MIGRATIONS)]
        )


def migrate_store(url: str) -> int:
    """Bring a database to this version of the program; returns the version. Raises as `alone`."""
    with alone(url):
        return len(MIGRATIONS)


def look_at(url: str) -> tuple[str, int, int]:
    """The engine and where it is, the version of the tables (0: there are none yet), and how many
    conversations are kept. Raises `StoreRefused`, `Unavailable`."""
    with connected(url) as (connection, place):
        try:
            version = version_in(connection, place)
            [(engine,)] = connection.execute(b"show server_version").fetchall()
            count = 0
            if version:
                [(count,)] = connection.execute(b"select count(*) from conversation").fetchall()
        except psycopg.Error as error:
            raise Unavailable(f"{place}: {first_line(error)}.") from error
    return f"{place} ({str(engine).split()[0]})", version, count


def _plain(value: Any) -> Any:
    """A value as PostgreSQL has it: its texts hold neither NUL nor half a surrogate pair."""
    match value:
        case str():
            return value.replace("\0", "\ufffd").encode("utf-8", "replace").decode()
        case memoryview():
            return bytes(value)
        case list():
            return [_plain(each) for each in value]
        case _:
            return value


def described(copied: Copied) -> Sequence[str]:
    """What was copied, for people."""
    return [f"{count} {name}" for name, count in copied.rows.items() if count]
