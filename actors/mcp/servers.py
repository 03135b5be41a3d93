"""The operator's MCP servers, as conversations use them: their tools, and calls of those.

Knows: which servers there are, and which tools each one has. Refuses to know: how a conversation's
child gets the tools, and who may call them.

Every server is shared: it has one connection (and, where it is a program, one process) for all
conversations. Those of ``mcp.per_conversation`` are not here, except as what a child is to start.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from importlib import import_module
from types import MappingProxyType
from typing import Any

import trio
from attrs import asdict

from ...schemas.events import McpFileRead, McpServerChanged
from ...schemas.mcp_config import McpConfig, ServerEntry
from ...schemas.mcp_tools import ServerTool, error_result
from ...schemas.settings.settings import McpSettings, Problem, SettingsError
from ...transport.loggers import get_logger
from ...transport.mcp.config_file import check_package, load_config
from ...transport.mcp.interface import Connect
from ...transport.process.guardian import Guardian, open_guardian
from ..runtime.bus import Bus
from .connections import Connections
from .server import Server, ServerState

__all__ = ["McpServers", "ServerState", "ServerTool", "open_mcp_servers"]

log = get_logger("ccapi.mcp")

LINK = "ccapi.transport.mcp.link"
"""The module that imports the `mcp` package, which takes half a second."""


class McpServers:
    """All servers; made by `open_mcp_servers`. As it is made here it has none."""

    def __init__(self) -> None:
        self.per_conversation: Mapping[str, dict[str, Any]] = MappingProxyType({})
        """By name, what ``mcp_set_servers`` needs to know of a server that a child starts."""
        self.connections: Connections | None = None
        """Of servers that clients name by URL. None: MCP is not enabled."""
        self.version = 0
        """Grows with every change of any list of tools."""
        self._servers: dict[str, Server] = {}
        self._tools: tuple[ServerTool, ...] = ()
        self._by_name: Mapping[str, ServerTool] = {}

    def __repr__(self) -> str:
        return f"<McpServers {', '.join(map(repr, self._servers.values())) or 'none'}>"

    @property
    def names(self) -> tuple[str, ...]:
        """The shared servers, in the order of the file."""
        return tuple(self._servers)

    def tools(self) -> tuple[ServerTool, ...]:
        """The tools of all servers that are ready, or were: one that failed keeps its last list, so
        that calls become error results and conversations keep their tools."""
        return self._tools

    def find(self, full_name: str) -> ServerTool | None:
        """The tool that the model knows by this name."""
        return self._by_name.get(full_name)

    async def call(self, tool: ServerTool, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """What comes of a call, as a ``CallToolResult`` in JSON: ``content``, ``isError`` where it
        failed, ``structuredContent`` where the tool has it. A server that is not there, an error
        that it answers with and a timeout are results with ``isError`` and a text that says so.

        Raises nothing but `trio.Cancelled`, on which the call is cancelled at the server too.
        """
        if tool.connection is not None:
            if self.connections is None:
                return error_result("There are no MCP servers here any more.")
            return await self.connections.call(tool, arguments)
        server = self._servers.get(tool.server)
        if server is None:
            return error_result(f"There is no MCP server {tool.server} any more.")
        return await server.call(tool.name, arguments)

    def states(self) -> tuple[ServerState, ...]:
        """How every shared server stands, in the order of the file."""
        return tuple(server.state() for server in self._servers.values())

    async def reload(self) -> None:
        """Read the file again: new servers start, gone ones stop, changed ones start anew, and
        those that are not connected are connected to at once. A broken file is logged and changes
        nothing."""

    def _note_tools(self) -> None:
        tools = tuple(tool for server in self._servers.values() for tool in server.tools)
        if tools != self._tools:
            self._tools = tools
            self._by_name = {tool.full_name: tool for tool in tools}
            self.version += 1


class _RunningServers(McpServers):
    """Servers whose actors run in `nursery`, which is `open_mcp_servers`' own."""

    def __init__(
        self,
        settings: McpSettings,
        environ: Mapping[str, str],
        bus: Bus,
        connect: Connect,
        guardian: Guardian | None,
        nursery: trio.Nursery,
    ) -> None:
        super().__init__()
        self._settings = settings
        self._environ = environ
        self._bus = bus
        self._connect = connect
        self._guardian = guardian
        self._nursery = nursery
        self.connections = Connections(settings, bus, connect, nursery)

    async def reload(self) -> None:
        try:
            config = await trio.to_thread.run_sync(load_config, self._settings, self._environ)
        except SettingsError as error:
            reasons = [str(problem) for problem in error.problems]
            log.warning("the MCP servers stay as they are: their file is refused", reasons=reasons)
            self._bus.publish(McpFileRead(refused=True))
            return
        self.take(config)
        self._bus.publish(McpFileRead(refused=False))
        log.info("the file of MCP servers was read again", servers=list(self.names))

    def take(self, config: McpConfig) -> None:
        """Have the servers of `config`, and no others."""
        self.per_conversation = MappingProxyType(
            {entry.name: entry.for_child() for entry in config.per_conversation}
        )
        before = self._servers
        self._servers = {entry.name: self._server(entry, before) for entry in config.shared}
        for name, server in before.items():
            if self._servers.get(name) is not server:
                server.scope.cancel()
                if name not in self._servers:
                    self._bus.publish(McpServerChanged(name, "gone"))
        self._note_tools()

    def _server(self, entry: ServerEntry, before: Mapping[str, Server]) -> Server:
        known = before.get(entry.name)
        if known is not None and known.entry == entry:
            if not known.ready:
                known.retry()
            return known
        server = Server(entry, self._settings, self._environ, self._bus, self._note_tools)
        if known is not None:
            server.tools = known.tools  # until it lists its own: conversations keep their tools
        self._nursery.start_soon(server.run, self._connect, self._guardian)
        return server

    async def wait_ready(self) -> None:
        """Wait until all servers are ready. Raises `SettingsError` with those that are not."""
        servers = tuple(self._servers.values())
        with trio.move_on_after(self._settings.start_timeout_seconds):
            for server in servers:
                if not await server.wait_ready():
                    break
        reasons = [
            Problem("mcp.strict", f"the MCP server {state.name} is not ready: {_why(state)}")
            for state in self.states()
            if state.state != "ready"
        ]
        if reasons:
            raise SettingsError(reasons)


def _why(state: ServerState) -> str:
    return state.reason or f"it is {state.state}"


def list_mcp_servers(servers: McpServers, *, whole: bool = True) -> dict[str, Any]:
    """The body of ``GET /v1/mcp``. Not `whole`, for a key that sees its own numbers alone: which
    servers there are, and their tools."""
    tools: dict[str, list[dict[str, Any]]] = {name: [] for name in servers.names}
    for tool in servers.tools():
        tools[tool.server].append(
            {
                "name": tool.full_name,
                "description": tool.description,
                "read_only": tool.read_only,
            }
        )
    states = [
        state
        if whole
        else ServerState(name=state.name, transport=state.transport, state=state.state)
        for state in servers.states()
    ]
    data = [{**asdict(state), "tools": tools[state.name]} for state in states]
    return {"object": "list", "data": data, "per_conversation": [*servers.per_conversation]}


@asynccontextmanager
async def open_mcp_servers(
    settings: McpSettings,
    bus: Bus,
    environ: Mapping[str, str] | None = None,
    *,
    connect: Connect | None = None,
) -> AsyncIterator[McpServers]:
    """Keep the servers of ``mcp.config_file`` connected while the block runs; none where MCP is not
    enabled. They are connected to beside the block, which waits for them only with ``mcp.strict``.

    `environ` has the variables of the file and what programs may inherit; `connect` stands for
    `transport.mcp.link.open_link` in tests. Raises `SettingsError`. What the block raises comes out
    of it as it is.
    """
    if not settings.enabled:
        yield McpServers()
        return
    environ = os.environ if environ is None else environ
    config = await trio.to_thread.run_sync(load_config, settings, environ)
    if connect is None:
        check_package()
        connect = _connect
    failure: Exception | None = None
    async with AsyncExitStack() as stack:
        guardian = await stack.enter_async_context(open_guardian()) if connect is _connect else None
        nursery = await stack.enter_async_context(trio.open_nursery())
        servers = _RunningServers(settings, environ, bus, connect, guardian, nursery)
        try:
            servers.take(config)
            if settings.strict:
                await servers.wait_ready()
            yield servers
        except Exception as error:  # noqa: BLE001 (raised again, past the nursery)
            failure = error
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure


@asynccontextmanager
async def _connect(*args: Any) -> AsyncIterator[Any]:
    """`transport.mcp.link.open_link`, imported when the first server is connected to: in a thread,
    so that nothing waits for it."""
    link = await trio.to_thread.run_sync(import_module, LINK, abandon_on_cancel=True)
    async with link.open_link(*args) as opened:
        yield opened
