"""The MCP servers that clients name by URL: one connection for each client, URL and headers.

Knows: how long a connection is kept, and how many there are. Refuses to know: which URLs may be
named (`actors.responses.mcp_tools`), how a server is reached (`transport.mcp`), and the operator's
servers (`actors.mcp.servers`).

A connection that is gone is made again for the next list or call, since the tool that is called
says how. What it says is secret: it stands in memory only, and in no log.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import trio
from attrs import define, evolve, field

from ...schemas.errors import Overloaded
from ...schemas.mcp_config import LEAST_HIDDEN, UrlEntry
from ...schemas.mcp_connection import Connection
from ...schemas.mcp_tools import ServerTool, error_result
from ...schemas.settings.settings import McpSettings
from ...transport.mcp.interface import Connect
from ..runtime.bus import Bus
from .server import Server, ServerState

MAX_CONNECTIONS = 32
IDLE_SECONDS = 300.0

COUNTED_AS = "server_url"
"""The name of all these servers in metrics: clients choose their labels."""


@define(eq=False)
class _Held:
    """A connection, and those who use it. `scope` ends its task."""

    server: Server
    scope: trio.CancelScope = field(factory=trio.CancelScope)
    users: int = 0
    used_at: float = field(factory=trio.current_time)


class Connections:
    """The connections of clients; their tasks run in `nursery`."""

    def __init__(
        self, settings: McpSettings, bus: Bus, connect: Connect, nursery: trio.Nursery
    ) -> None:
        self._settings = settings
        self._bus = bus
        self._connect = connect
        self._nursery = nursery
        self._held: dict[Connection, _Held] = {}

    def __repr__(self) -> str:
        return f"<Connections {len(self._held)}>"

    def __len__(self) -> int:
        return len(self._held)

    async def list_tools(
        self, connection: Connection
    ) -> tuple[ServerState, tuple[ServerTool, ...]]:
        """How the server stands, and its tools: none unless it is ready. Waits for a connection
        under way. Raises `Overloaded`."""
        with self._use(connection) as server:
            await self._settle(server)
            tools = server.tools if server.ready else ()
            return server.state(), tuple(evolve(tool, connection=connection) for tool in tools)

    async def call(self, tool: ServerTool, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """See `McpServers.call`."""
        assert tool.connection is not None
        try:
            with self._use(tool.connection) as server:
                await self._settle(server)
                return await server.call(tool.name, arguments)
        except Overloaded as error:
            return error_result(error.message)

    async def _settle(self, server: Server) -> None:
        with trio.move_on_after(self._settings.start_timeout_seconds):
            await server.settle()

    @contextmanager
    def _use(self, connection: Connection) -> Iterator[Server]:
        held = self._held.get(connection)
        if held is None:
            self._make_room()
            server = Server(
                _entry(connection), self._settings, {}, self._bus, _ignore, counted_as=COUNTED_AS
            )
            held = self._held[connection] = _Held(server)
            self._nursery.start_soon(self._keep, connection, held)
        held.users += 1
        try:
            yield held.server
        finally:
            held.users -= 1
            held.used_at = trio.current_time()

    def _make_room(self) -> None:
        if len(self._held) < MAX_CONNECTIONS:
            return
        idle = [(held.used_at, key) for key, held in self._held.items() if not held.users]
        if not idle:
            raise Overloaded(
                f"{MAX_CONNECTIONS} MCP servers are connected to by server_url, and all are at"
                " work: no further one can be now.",
                code="too_many_mcp_servers",
                retry_after=1.0,
            )
        _, oldest = min(idle, key=lambda each: each[0])
        self._held.pop(oldest).scope.cancel()

    async def _keep(self, connection: Connection, held: _Held) -> None:
        """Keep it until it was idle for long, or another one takes its place."""
        with held.scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(held.server.run, self._connect, None)
                while True:
                    until = math.inf if held.users else held.used_at + IDLE_SECONDS
                    if until <= trio.current_time():
                        break
                    await trio.sleep_until(min(until, trio.current_time() + IDLE_SECONDS))
                del self._held[connection]
                nursery.cancel_scope.cancel()


def _ignore() -> None:
    """Lists of one request's tools are read when the next asks for them."""


def _entry(connection: Connection) -> UrlEntry:
    headers = dict(connection.headers)
    words = {connection.url, *headers.values()}
    words |= {value.partition(" ")[2] for value in headers.values()}  # without "Bearer"
    hidden = frozenset(word for word in words if len(word) >= LEAST_HIDDEN)
    return UrlEntry(connection.label, "http", connection.url, headers, hidden, is_guarded=True)
