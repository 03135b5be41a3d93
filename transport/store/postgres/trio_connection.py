"""psycopg's connection, natively on trio.

Knows: what psycopg's ``AsyncConnection`` leaves to its event loop (`wait`, the lock, connecting),
and its generators, which say when they wait for the socket. What is touched of psycopg's inside is
touched here, and named in ``tests/house/test_foreign_internals.py``. Refuses to know: statements.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from ipaddress import ip_address
from typing import Any, TypeVar

import psycopg
import trio
from psycopg import generators
from psycopg.abc import PQGen, PQGenConn
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.pq.abc import PGconn
from psycopg.rows import AsyncRowFactory, tuple_row
from psycopg.waiting import Ready, Wait
from trio.lowlevel import wait_readable, wait_writable

T = TypeVar("T")

Row = tuple[Any, ...]

TESTED = (3, 3)
"""The version of psycopg whose inside is known."""


class TrioConnection(psycopg.AsyncConnection[Row]):
    """A connection that waits on trio. Made by `connect_on_trio`. A call that is cancelled has
    closed it."""

    def __init__(self, pgconn: PGconn, row_factory: AsyncRowFactory[Row] = tuple_row) -> None:
        super().__init__(pgconn, row_factory)
        self.lock = trio.Lock()  # type: ignore[assignment]

    async def wait(self, gen: PQGen[T], interval: float = 0.0, timeout: float | None = None) -> T:
        try:
            return await _drive(gen, self.pgconn.socket)
        except (psycopg.Error, OSError):
            raise
        except BaseException:  # what comes next on it would be the answer to this
            self.pgconn.finish()
            raise


async def connect_on_trio(parameters: Mapping[str, Any]) -> TrioConnection:
    """A connection that commits each statement. `parameters` are libpq's. Raises `psycopg.Error`,
    `OSError`."""
    failed: Exception | None = None
    for attempt in await _attempts(parameters):
        try:
            pgconn = await _drive_connecting(generators.connect(make_conninfo("", **attempt)))
        except psycopg.Error as error:
            failed = error
            continue
        connection = TrioConnection(pgconn)
        try:
            await connection.set_autocommit(True)
        except BaseException:
            pgconn.finish()
            raise
        return connection
    raise failed or psycopg.OperationalError("There is no such host.")


def misfit() -> str | None:
    """Why `TrioConnection` does not fit this psycopg; None: it does."""
    version = tuple(map(int, psycopg.__version__.split(".")[:2]))
    if version != TESTED:
        return f"psycopg is {psycopg.__version__}, not {'.'.join(map(str, TESTED))}"
    wait = inspect.signature(psycopg.AsyncConnection.wait)
    if [*wait.parameters] != ["self", "gen", "interval", "timeout"]:
        return "psycopg.AsyncConnection.wait is another"
    if not callable(getattr(generators, "connect", None)):
        return "psycopg.generators.connect is not there"
    return None


async def _attempts(parameters: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The parameters for each address of each host, looked up: libpq would stop the whole program
    for that."""
    found: list[dict[str, Any]] = []
    hosts = str(parameters.get("host") or "").split(",")
    ports = str(parameters.get("port") or "").split(",")
    for number, host in enumerate(hosts):
        port = ports[number] if len(ports) == len(hosts) else ports[0]
        one = {**parameters, "host": host, "port": port}
        if parameters.get("hostaddr") or not host or host.startswith(("/", "@")) or _is_ip(host):
            if parameters.get("hostaddr"):
                one = {**parameters}
            found.append({name: value for name, value in one.items() if value not in (None, "")})
            continue
        try:
            infos = await trio.socket.getaddrinfo(host, port or 5432, type=trio.socket.SOCK_STREAM)
        except OSError as error:
            if number == len(hosts) - 1 and not found:
                raise psycopg.OperationalError(f"{host}: {error.strerror or error}") from error
            continue
        for address in dict.fromkeys(str(info[4][0]) for info in infos):
            some = {**one, "hostaddr": address}
            found.append({name: value for name, value in some.items() if value not in (None, "")})
    return found


def _is_ip(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def parameters_of(url: str) -> dict[str, Any]:
    """libpq's parameters. Raises `psycopg.ProgrammingError`."""
    return {**conninfo_to_dict(url)}


async def _drive(gen: PQGen[T], socket: int) -> T:
    try:
        waits = next(gen)
        while True:
            waits = gen.send(await _ready(socket, waits))
    except StopIteration as ended:
        value: T = ended.value
        return value
    except OSError as error:
        raise psycopg.OperationalError(f"the connection was closed: {error}") from error


async def _drive_connecting(gen: PQGenConn[T]) -> T:
    try:
        socket, waits = next(gen)
        while True:
            socket, waits = gen.send(await _ready(socket, waits))
    except StopIteration as ended:
        value: T = ended.value
        return value
    except OSError as error:
        raise psycopg.OperationalError(f"the connection was closed: {error}") from error


async def _ready(socket: int, waits: Wait) -> Ready:
    if waits == Wait.R:
        await wait_readable(socket)
        return Ready.R
    if waits == Wait.W:
        await wait_writable(socket)
        return Ready.W
    came = Ready.NONE

    async def wait_for(wait: Any, what: Ready) -> None:
        nonlocal came
        await wait(socket)
        came = Ready(came | what)
        nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait_for, wait_readable, Ready.R)
        nursery.start_soon(wait_for, wait_writable, Ready.W)
    return came
