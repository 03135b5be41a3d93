"""The connections of one store, and what their errors mean.

Knows: how many there are, when one is opened and thrown away, how it is found out that the engine
is there again, and whether a statement that failed may be done. Refuses to know: what statements
say.

While the engine cannot be reached every call is refused at once, and it is tried again every
`RETRY_SECONDS`. The first try that succeeds ends the trouble.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

import psycopg
import trio
from psycopg import errors

from ...loggers import get_logger
from ..interface import StoreError, StoreRefused, Unavailable, Unknown
from .connection import STATEMENT_SECONDS, Connection, connect
from .trio_connection import Row, misfit, parameters_of

log = get_logger("ccapi.store")

CONNECTIONS = 8

RETRY_SECONDS = 0.1

PATIENCE_SECONDS = STATEMENT_SECONDS + 5.0
"""How long the engine may take to answer, beyond its own bounds: after that it hangs."""

_PROBE = "update counter set value = value where name = 'probe'"
"""Writes: a disk that is full is no end of the trouble."""


class Pool:
    """At most `size` connections. `prepare` is called with the first connection after a start, and
    raises `StoreRefused` where the database is not this program's."""

    def __init__(
        self,
        url: str,
        prepare: Callable[[Connection], Awaitable[None]],
        *,
        threads: bool = False,
        size: int = CONNECTIONS,
    ) -> None:
        self.trouble: str | None = None
        self.parameters, by_url = parameters_and_threads(url)
        self.place = place_of(self.parameters)
        why = misfit()
        if why is not None and not threads:
            log.warning("store_in_threads", reason=why)
        self._threads = threads or by_url or why is not None
        self._prepare = prepare
        self._is_prepared = False
        self._places = trio.CapacityLimiter(size)
        self._idle: deque[Connection] = deque()
        self._broken = trio.Event()
        self._is_closed = False
        self._calls: set[trio.CancelScope] = set()

    def __repr__(self) -> str:
        return f"<Pool {self.place} {self.trouble or 'well'}>"

    async def open(self) -> None:
        """Connect. What is wrong is the trouble, until it is right again; raises `StoreRefused`."""
        with suppress(Unavailable):
            self._idle.append(await self._connect())

    async def run(self) -> None:
        """Look for the engine while it cannot be reached."""
        while True:
            await self._broken.wait()
            await self._mend()
            self._broken = trio.Event()

    def give_up(self) -> None:
        """The engine does not answer, and no caller can wait any longer: what is asked of it now
        fails as in any other outage."""
        self._fail(f"{self.place} does not answer.")
        for call in self._calls:
            call.cancel()

    def close(self) -> None:
        self._is_closed = True
        while self._idle:
            self._idle.pop().close()

    # -- calls -------------------------------------------------------------------------------------

    async def write(self, statement: str, *values: object) -> list[Row]:
        """Raises `Unavailable`, `Unknown`, and `psycopg.IntegrityError`."""
        async with self.use(writes=True) as connection:
            return await connection.execute(statement, values)

    async def read(self, statement: str, *values: object, prepare: bool | None = None) -> list[Row]:
        """Raises `Unavailable`. A connection that was lost is replaced once: to read twice does no
        harm."""
        try:
            async with self.use(writes=False) as connection:
                return await connection.execute(statement, values, prepare=prepare)
        except _Lost:
            async with self.use(writes=False) as connection:
                return await connection.execute(statement, values, prepare=prepare)

    @asynccontextmanager
    async def use(self, *, writes: bool, seconds: float | None = None) -> AsyncIterator[Connection]:
        """A connection, whose errors become the store's. It is closed where it may not be as it was
        before."""
        was_asked = False
        with trio.CancelScope() as scope:
            self._calls.add(scope)
            try:
                async with self._places:
                    connection = await self._take()
                    was_asked, is_well = True, False
                    try:
                        bound = PATIENCE_SECONDS if seconds is None else seconds
                        scope.deadline = trio.current_time() + bound
                        yield connection
                        is_well = True
                    except psycopg.Error as error:
                        is_well = is_refusal(error)
                        if isinstance(error, psycopg.IntegrityError):
                            raise
                        raise self._error_of(error, writes=writes) from error
                    except StoreError:
                        is_well = True
                        raise
                    finally:
                        if is_well and not self._is_closed and connection.is_quiet():
                            self._idle.append(connection)
                        else:
                            connection.close()
            finally:
                self._calls.discard(scope)
        if scope.cancelled_caught:
            self._fail(f"{self.place} does not answer.")
            raise (Unknown if writes and was_asked else Unavailable)(self.trouble or "")

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        """Several statements, all of them or none."""
        async with self.use(writes=True) as connection:
            try:
                await connection.execute("begin")
                yield connection
                await connection.execute("commit")
            except BaseException:
                connection.close()  # which undoes it
                raise

    async def _take(self) -> Connection:
        if self.trouble is not None:
            raise Unavailable(self.trouble)
        if self._is_closed:
            raise Unavailable("The store is closed.")
        while self._idle:
            connection = self._idle.pop()
            if connection.is_quiet():
                return connection
            connection.close()
        return await self._connect()

    async def connect(self, *, may_lose: bool = False) -> Connection:
        """One more connection, the caller's to close. Raises `psycopg.Error`, `OSError`."""
        return await connect(self.parameters, threads=self._threads, may_lose=may_lose)

    async def _connect(self) -> Connection:
        try:
            connection = await self.connect()
        except (psycopg.Error, OSError) as error:
            self._fail(f"{self.place} cannot be reached ({first_line(error)}).")
            raise Unavailable(self.trouble or "") from error
        if not self._is_prepared:
            try:
                await self._prepare(connection)
                self._is_prepared = True
            except (psycopg.Error, OSError) as error:
                connection.close()
                self._fail(f"{self.place} cannot be used ({first_line(error)}).")
                raise Unavailable(self.trouble or "") from error
            except BaseException:
                connection.close()
                raise
        return connection

    # -- errors ------------------------------------------------------------------------------------

    def _error_of(self, error: psycopg.Error, *, writes: bool) -> StoreError:
        """What an error means to the caller."""
        if is_refusal(error):
            text = f"{self.place}: {first_line(error)}."
            if isinstance(error, errors.DiskFull | errors.ReadOnlySqlTransaction):
                self._fail(text)
            return Unavailable(text)
        text = f"The connection to {self.place} was lost ({first_line(error)})."
        return Unknown(text) if writes else _Lost(text)

    def _fail(self, text: str) -> None:
        if self.trouble is None:
            log.error("store_unavailable", reason=text)
        self.trouble = text
        self._broken.set()

    async def _mend(self) -> None:
        while self.trouble is not None:
            await trio.sleep(RETRY_SECONDS)
            connection: Connection | None = None
            try:
                with trio.fail_after(PATIENCE_SECONDS):
                    connection = await self._connect()
                    await connection.execute(_PROBE)
            except StoreRefused as error:
                self.trouble = str(error)
            except (StoreError, psycopg.Error, OSError, trio.TooSlowError) as error:
                if connection is not None:
                    connection.close()
                if isinstance(error, trio.TooSlowError):
                    self.trouble = f"{self.place} does not answer."
                elif not isinstance(error, StoreError):
                    self.trouble = f"{self.place} cannot be used ({first_line(error)})."
            else:
                self._idle.append(connection)
                self.trouble = None
                log.info("store_available_again")


class _Lost(Unavailable):
    """The connection was lost while something was read."""


def is_refusal(error: psycopg.Error) -> bool:
    """Whether the engine says that the statement was not done. (One that is shut down or has
    crashed says so at any moment: it may be done.)"""
    state = error.sqlstate
    return state is not None and not state.startswith(("08", "57P", "XX"))


def parameters_and_threads(url: str) -> tuple[dict[str, Any], bool]:
    """libpq's parameters, and whether the URL asks for threads (``?ccapi_threads=1``). Raises
    `StoreRefused`."""
    parts = urlsplit(url)
    given = parse_qsl(parts.query, keep_blank_values=True)
    plain = [(name, value) for name, value in given if name != "ccapi_threads"]
    threads = len(plain) < len(given) and dict(given)["ccapi_threads"] not in ("", "0")
    query = urlencode(plain, quote_via=quote)
    try:
        return parameters_of(parts._replace(query=query).geturl()), threads
    except psycopg.Error as error:
        raise StoreRefused(f"storage.url cannot be read: {first_line(error)}.") from error


def place_of(parameters: Mapping[str, Any]) -> str:
    """Where the database is, without a secret."""
    hosts = str(parameters.get("host") or "localhost").split(",")
    ports = str(parameters.get("port") or "5432").split(",")
    shown = ",".join(
        f"{host}:{ports[number if len(ports) == len(hosts) else 0]}"
        for number, host in enumerate(hosts)
    )
    return f"PostgreSQL at {shown}/{parameters.get('dbname') or parameters.get('user') or ''}"


def first_line(error: BaseException) -> str:
    """What an error says, in one line; a password in it is left out."""
    lines = str(error).strip().splitlines()
    text = lines[0] if lines else type(error).__name__
    return re.sub(r"password=\S+", "password=…", text).rstrip(".")
