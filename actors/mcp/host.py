"""The MCP servers as a session sees them: the tools of its child, and which calls may be made.

Knows: the operator's rules for all conversations. Refuses to know: how a server is reached
(`actors.mcp.servers`), and how a client is asked (`actors.session`).

Where no rule allows or denies a call, the permission mode decides as for Claude Code's own tools:
clients are asked (``default``, ``acceptEdits``), or nothing happens that was not allowed
(``dontAsk``); while an agent plans (``plan``), only a tool that its server calls read-only may be
asked for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ...schemas.mcp_rules import Decision, covers, denies
from ...schemas.mcp_tools import ServerTool
from ...schemas.settings.settings import Settings
from ...schemas.turn import HostedTool, Setup
from .servers import McpServers


class McpHost:
    """What sessions have of `servers` (`actors.session.hosted.Host`)."""

    def __init__(self, servers: McpServers, settings: Settings) -> None:
        self._servers = servers
        self._allow = settings.permissions.allow
        self._deny = settings.permissions.deny
        self._mode = settings.permissions.mode
        self._skip = settings.file_access.skip_permissions
        self._version = -1
        self._offered: tuple[HostedTool, ...] = ()

    def __repr__(self) -> str:
        return f"<McpHost of {self._servers!r}>"

    def offers(self, setup: Setup) -> tuple[HostedTool, ...]:
        """All tools, but for those that may never be called."""
        if self._version != self._servers.version:
            self._version = self._servers.version
            self._offered = tuple(
                HostedTool.of(tool) for tool in self._servers.tools() if not self.denies(tool)
            )
        return self._offered

    def started_by(self, setup: Setup) -> Mapping[str, Mapping[str, Any]]:
        """Agents start the servers of ``mcp.per_conversation``, each in its workspace."""
        return self._servers.per_conversation if setup.profile == "agent" else {}

    def decide(self, tool: HostedTool, grants: Sequence[str]) -> Decision:
        source = tool.source
        if self.denies(source):
            return "deny"
        if source.connection is not None:
            return "allow"  # its client has said that it need not be asked
        if self._skip or any(covers(rule, source) for rule in (*self._allow, *grants)):
            return "allow"
        if self._mode == "dontAsk" or (self._mode == "plan" and not source.read_only):
            return "deny"
        return "ask"

    def denies(self, source: ServerTool) -> bool:
        """Whether the operator's rules deny some of its calls at least."""
        return any(denies(rule, source) for rule in self._deny)

    async def call(self, tool: HostedTool, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        return await self._servers.call(tool.source, arguments)
