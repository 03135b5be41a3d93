"""MCP servers without a process, for tests of their actors: a link that the test plays."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio
from attrs import define, field

from ccapi.actors.mcp.servers import McpServers, open_mcp_servers
from ccapi.actors.runtime.bus import Bus
from ccapi.schemas.mcp_config import ServerEntry
from ccapi.schemas.settings.settings import McpSettings
from ccapi.transport.mcp.interface import Link, LinkError, LinkOptions
from ccapi.transport.process.guardian import Guardian


def tool(name: str, **fields: Any) -> dict[str, Any]:
    return {"name": name, "description": "", "inputSchema": {"type": "object"}, **fields}


@define(eq=False)
class LinkDouble:
    """One connection to a server of a `World`. Calls answer with their arguments as text, in
    `seconds`."""

    server: ServerDouble
    options: LinkOptions
    ended: trio.Event = field(factory=trio.Event)
    calls: int = 0
    cancelled: int = 0
    listings: int = 0

    async def list_tools(self) -> list[Any]:
        self.listings += 1
        if self.server.is_restless:
            self.options.changed()
        await trio.sleep(self.server.listing_seconds)
        return list(self.server.tools)

    async def call(self, name: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
        self.calls += 1
        if self.server.error is not None:
            raise self.server.error
        if self.server.result is not None:
            return self.server.result
        try:
            with trio.CancelScope() as scope:
                self.server.scopes.append(scope)
                await trio.sleep(self.server.seconds)
        except trio.Cancelled:
            self.cancelled += 1
            raise
        if scope.cancelled_caught:
            raise LinkError("it is gone")
        return {"content": [{"type": "text", "text": json.dumps(dict(arguments))}]}


@define(eq=False)
class ServerDouble:
    """How a server behaves from now on. `refusals`: what its next connections come to.
    `is_restless`: whenever its tools are listed, it says that they have changed."""

    tools: Sequence[Any] = ()
    refusals: list[LinkError] = field(factory=list)
    connect_seconds: float = 0.0
    listing_seconds: float = 0.0
    seconds: float = 0.01
    is_restless: bool = False
    error: Exception | None = None
    result: dict[str, Any] | None = None
    links: list[LinkDouble] = field(factory=list)
    tries: list[float] = field(factory=list)
    scopes: list[trio.CancelScope] = field(factory=list)
    reason: LinkError = field(factory=lambda: LinkError("it is gone"))

    @property
    def link(self) -> LinkDouble:
        return self.links[-1]

    @property
    def connected(self) -> int:
        return sum(not link.ended.is_set() for link in self.links)

    def die(self) -> None:
        self.link.ended.set()
        for scope in self.scopes:
            scope.cancel()


@define(eq=False)
class World:
    """The servers of a file, by name."""

    path: Path
    servers: dict[str, ServerDouble] = field(factory=dict)
    bus: Bus = field(factory=Bus)

    def write(self, *names: str, **entries: Any) -> None:
        made = {name: {"command": name} for name in names} | entries
        self.path.write_text(json.dumps({"mcpServers": made}))

    def __getitem__(self, name: str) -> ServerDouble:
        return self.servers.setdefault(name, ServerDouble([tool("echo")]))

    @asynccontextmanager
    async def connect(
        self, entry: ServerEntry, options: LinkOptions, guardian: Guardian | None
    ) -> AsyncIterator[Link]:
        server = self[entry.name]
        server.tries.append(trio.current_time())
        await trio.sleep(server.connect_seconds)
        if server.refusals:
            raise server.refusals.pop(0)
        link = LinkDouble(server, options)
        server.links.append(link)
        try:
            yield link
        finally:
            link.ended.set()
        raise server.reason

    @asynccontextmanager
    async def open(self, **settings: Any) -> AsyncIterator[McpServers]:
        chosen = McpSettings(enabled=True, config_file=self.path, **settings)
        async with open_mcp_servers(chosen, self.bus, {}, connect=self.connect) as servers:
            yield servers
