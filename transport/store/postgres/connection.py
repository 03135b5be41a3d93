"""One connection to PostgreSQL, natively on trio or in a thread.

Knows: both kinds behind one interface, what every connection is set to, how Python's strings become
PostgreSQL's. Refuses to know: how many there are, and what an error means (`pool`).
"""

from __future__ import annotations

import os
import select
import socket
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Protocol

import psycopg
import trio
from psycopg.adapt import Buffer, Dumper

from .trio_connection import Row, connect_on_trio

STATEMENT_SECONDS = 5.0
"""How long the engine works on a statement, at most."""

LOCK_SECONDS = 0.5
"""How long it waits for a row that another one changes."""

IDLE_SECONDS = 5.0
"""How long a transaction may wait for its next statement: a gateway that is stopped in the middle
of one holds its rows no longer."""

CONNECT_SECONDS = 3.0

_SETTINGS = """
select set_config('statement_timeout', $1, false), set_config('lock_timeout', $2, false),
    set_config('idle_in_transaction_session_timeout', $3, false),
    set_config('default_transaction_isolation', 'read committed', false),
    set_config('tcp_keepalives_idle', '10', false),
    set_config('tcp_keepalives_interval', '5', false),
    set_config('tcp_keepalives_count', '3', false),
    set_config('synchronous_commit', case when $4 then 'off'
        when current_setting('synchronous_commit') = 'remote_apply' then 'remote_apply'
        else 'on' end, false)
"""


class Connection(Protocol):
    """One connection: one statement at a time, each committed by itself outside of ``begin``."""

    async def execute(
        self, statement: str, values: Sequence[object] = (), *, prepare: bool | None = None
    ) -> list[Row]:
        """Raises `psycopg.Error`. If it is cancelled, the connection is closed, and what the engine
        does is not known."""
        ...

    def is_quiet(self) -> bool:
        """Whether it is open, and the engine has sent nothing by itself (as it does before it
        closes it)."""
        ...

    def close(self) -> None: ...


class Text(Dumper):
    """A string as PostgreSQL's ``text``, which holds neither NUL nor half a surrogate pair."""

    oid = 25

    def dump(self, obj: str) -> Buffer:
        return obj.replace("\0", "\ufffd").encode("utf-8", "replace")


async def connect(
    parameters: Mapping[str, Any], *, threads: bool, may_lose: bool = False
) -> Connection:
    """A connection. `may_lose`: what it commits need not survive a crash of the engine. Raises
    `psycopg.Error`, `OSError`."""
    given = {"application_name": "ccapi", **parameters, "client_encoding": "UTF8"}
    made: Connection | None = None
    with trio.move_on_after(CONNECT_SECONDS):
        opened = await _connect_in_thread(given) if threads else await _connect_native(given)
        values = (
            *(f"{seconds * 1000:.0f}" for seconds in (STATEMENT_SECONDS, LOCK_SECONDS)),
            *(f"{IDLE_SECONDS * 1000:.0f}", may_lose),
        )
        try:
            await opened.execute(_SETTINGS, values)
        except BaseException:
            opened.close()
            raise
        made = opened
    if made is None:
        raise psycopg.OperationalError(f"no answer within {CONNECT_SECONDS:.0f} s")
    return made


async def _connect_native(parameters: Mapping[str, Any]) -> Connection:
    return NativeConnection(await connect_on_trio(parameters))


class NativeConnection:
    """See `Connection`."""

    def __init__(self, connection: psycopg.AsyncConnection[Row]) -> None:
        self._connection = connection
        connection.cursor_factory = psycopg.AsyncRawCursor
        _adapt(connection)
        self._said: list[str] = []
        # Those that come while a statement is done.
        connection.add_notify_handler(lambda notify: self._said.append(notify.payload))

    async def notified(self) -> list[str]:
        """What notifications say that have come, at least one. Raises `psycopg.Error`,
        `OSError`."""
        pgconn = self._connection.pgconn
        while True:
            while (found := pgconn.notifies()) is not None:
                self._said.append(found.extra.decode("utf-8", "replace"))
            if self._said:
                said, self._said = self._said, []
                return said
            await trio.lowlevel.wait_readable(pgconn.socket)
            pgconn.consume_input()

    async def execute(
        self, statement: str, values: Sequence[object] = (), *, prepare: bool | None = None
    ) -> list[Row]:
        cursor = self._connection.cursor(binary=True)
        await cursor.execute(statement.encode(), values, prepare=prepare)
        return [] if cursor.description is None else await cursor.fetchall()

    def is_quiet(self) -> bool:
        return not self._connection.closed and _is_silent(self._connection.fileno())

    def close(self) -> None:
        self._connection.pgconn.finish()


async def _connect_in_thread(parameters: Mapping[str, Any]) -> Connection:
    def connect() -> psycopg.Connection[Row]:
        bound = {"connect_timeout": f"{CONNECT_SECONDS:.0f}", **parameters}
        return psycopg.connect(autocommit=True, **bound)

    return ThreadConnection(await trio.to_thread.run_sync(connect, limiter=_limiter()))


class ThreadConnection:
    """See `Connection`. For a psycopg whose inside is not known."""

    def __init__(self, connection: psycopg.Connection[Row]) -> None:
        self._connection = connection
        connection.cursor_factory = psycopg.RawCursor
        _adapt(connection)

    async def execute(
        self, statement: str, values: Sequence[object] = (), *, prepare: bool | None = None
    ) -> list[Row]:
        def run() -> tuple[list[Row], psycopg.Error | None]:
            try:
                cursor = self._connection.cursor(binary=True)
                cursor.execute(statement.encode(), values, prepare=prepare)
                return [] if cursor.description is None else cursor.fetchall(), None
            except psycopg.Error as error:
                return [], error

        is_over = False

        async def hang_up() -> None:
            """Once the caller is cancelled: the thread would wait for the engine."""
            try:
                await trio.sleep_forever()
            finally:
                if not is_over:
                    self._hang_up()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(hang_up)
            rows, error = await trio.to_thread.run_sync(run, limiter=_limiter())
            is_over = True
            nursery.cancel_scope.cancel()
        if error is not None:
            raise error
        return rows

    def _hang_up(self) -> None:
        with suppress(psycopg.Error, OSError):
            with socket.socket(fileno=os.dup(self._connection.fileno())) as theirs:
                theirs.shutdown(socket.SHUT_RDWR)

    def is_quiet(self) -> bool:
        return not self._connection.closed and _is_silent(self._connection.fileno())

    def close(self) -> None:
        self._connection.close()


def _adapt(connection: psycopg.AsyncConnection[Row] | psycopg.Connection[Row]) -> None:
    connection.adapters.register_dumper(str, Text)
    connection.prepare_threshold = 2


def _is_silent(file: int) -> bool:
    poll = select.poll()
    poll.register(file, select.POLLIN)
    return not poll.poll(0)


_threads: trio.lowlevel.RunVar[trio.CapacityLimiter] = trio.lowlevel.RunVar("postgres")


def _limiter() -> trio.CapacityLimiter:
    """Their own threads: a statement must not wait for other work. The pool bounds how many."""
    try:
        return _threads.get()
    except LookupError:
        limiter = trio.CapacityLimiter(64)
        _threads.set(limiter)
        return limiter
