"""The operator's MCP servers, as conversations use them: their tools, and calls of those.

Knows: which servers there are, and which tools each one has. Refuses to know: how a conversation's
child gets the tools, and who may call them.

Every server is shared: it has one connection (and, where it is a program, one process) for all
conversations. Those of ``mcp.per_conversation`` are not here, except as what a child is to start.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from attrs import field, frozen

from ...schemas.mcp_tools import LeftOut, ServerTool, error_result

__all__ = ["McpServers", "ServerState", "ServerTool"]


@frozen(kw_only=True)
class ServerState:
    """How a server stands.

    `reason`: why it is not ready. `next_try`: seconds until it is connected again (None: it is
    ready, or waits for the operator). `tools`: how many conversations can have; `left_out`: those
    that none can. `calls` and `errors` (error results among them) are counted since the gateway
    started; `latency_ms` has ``count``, ``mean``, ``p50``, ``p95``, ``p99`` and ``max`` of the
    latest calls.
    """

    name: str
    transport: Literal["stdio", "http", "sse"]
    state: Literal["connecting", "ready", "needs_auth", "failed"]
    reason: str = ""
    next_try: float | None = None
    tools: int = 0
    calls: int = 0
    errors: int = 0
    latency_ms: Mapping[str, float | None] = field(factory=dict)
    left_out: tuple[LeftOut, ...] = ()


class McpServers:
    """All servers; made by `open_mcp_servers`. As it is made here it has none."""

    def __init__(self) -> None:
        self.names: tuple[str, ...] = ()
        """The shared servers, in the order of the file."""
        self.per_conversation: Mapping[str, dict[str, Any]] = {}
        """By name, what ``mcp_set_servers`` needs to know of a server that a child starts."""
        self.version = 0
        """Grows with every change of any list of tools."""

    def __repr__(self) -> str:
        return f"<McpServers {', '.join(self.names) or 'none'}>"

    def tools(self) -> tuple[ServerTool, ...]:
        """The tools of all servers that are ready, or were: one that failed keeps its last list, so
        that calls become error results and conversations keep their tools."""
        return ()

    def find(self, full_name: str) -> ServerTool | None:
        return next((tool for tool in self.tools() if tool.full_name == full_name), None)

    async def call(self, tool: ServerTool, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """What comes of a call, as a ``CallToolResult`` in JSON: ``content``, ``isError`` where it
        failed, ``structuredContent`` where the tool has it. A server that is not there, an error
        that it answers with and a timeout are results with ``isError`` and a text that says so.

        Raises nothing but `trio.Cancelled`, on which the call is cancelled at the server too.
        """
        return error_result(f"There is no MCP server {tool.server}.")

    def states(self) -> tuple[ServerState, ...]:
        return ()
