"""Which tools of MCP servers conversations have, and which calls need permission."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from ccapi.actors.mcp.host import McpHost
from ccapi.actors.mcp.servers import McpServers
from ccapi.schemas.mcp_rules import Decision
from ccapi.schemas.mcp_tools import ServerTool
from ccapi.schemas.settings.settings import FileAccessSettings, PermissionSettings, Settings
from ccapi.schemas.turn import HostedTool, Setup

READ = ServerTool("git", "log", "mcp__git__log", "Reads.", '{"type":"object"}', read_only=True)
WRITE = ServerTool("git", "push", "mcp__git__push", "Writes.", '{"type":"object"}', read_only=False)
CHAT, AGENT = Setup("sonnet"), Setup("sonnet", profile="agent")


class Two(McpServers):
    """Servers with these tools, that say what they were asked."""

    def __init__(self) -> None:
        super().__init__()
        self.version = 1
        self.listed: tuple[ServerTool, ...] = (READ, WRITE)
        self.per_conversation = {"files": {"type": "stdio", "command": "files"}}

    def tools(self) -> tuple[ServerTool, ...]:
        return self.listed

    async def call(self, tool: ServerTool, arguments: Mapping[str, Any]) -> dict[str, Any]:
        return {"content": [], "asked": [tool.name, dict(arguments)]}


def host(servers: McpServers | None = None, *, skip: bool = False, **permissions: Any) -> McpHost:
    return McpHost(
        servers or Two(),
        Settings(
            permissions=PermissionSettings(**permissions),
            file_access=FileAccessSettings(skip_permissions=skip),
        ),
    )


def decided(made: McpHost, *grants: str) -> list[Decision]:
    return [made.decide(HostedTool.of(tool), grants) for tool in (READ, WRITE)]


def test_every_conversation_has_the_tools_of_all_servers() -> None:
    made = host()
    assert [tool.name for tool in made.offers(CHAT)] == ["mcp__git__log", "mcp__git__push"]
    assert made.offers(AGENT) is made.offers(CHAT)


def test_another_list_is_another_offer() -> None:
    servers = Two()
    made = host(servers)
    first = made.offers(CHAT)
    servers.listed = (READ,)
    assert made.offers(CHAT) is first
    servers.version += 1
    assert [tool.name for tool in made.offers(CHAT)] == ["mcp__git__log"]


def test_what_may_never_be_called_is_not_offered() -> None:
    made = host(deny=("mcp__git__push", "Bash(rm:*)"))
    assert [tool.name for tool in made.offers(CHAT)] == ["mcp__git__log"]
    assert decided(made) == ["ask", "deny"]


def test_agents_start_servers_of_their_own() -> None:
    assert list(host().started_by(AGENT)) == ["files"]
    assert host().started_by(CHAT) == {}


@pytest.mark.parametrize(
    ("permissions", "expected"),
    [
        ({}, ["ask", "ask"]),
        ({"allow": ("mcp__git__log",)}, ["allow", "ask"]),
        ({"allow": ("mcp__git",)}, ["allow", "allow"]),
        ({"allow": ("mcp__git",), "deny": ("mcp__git__push",)}, ["allow", "deny"]),
        ({"mode": "acceptEdits"}, ["ask", "ask"]),
        ({"mode": "dontAsk"}, ["deny", "deny"]),
        ({"mode": "dontAsk", "allow": ("mcp__git__push",)}, ["deny", "allow"]),
        ({"mode": "plan"}, ["ask", "deny"]),
        ({"skip": True}, ["allow", "allow"]),
        ({"skip": True, "deny": ("mcp__git__log",)}, ["deny", "allow"]),
    ],
)
def test_rules_and_the_mode_decide(permissions: dict[str, Any], expected: list[Decision]) -> None:
    assert decided(host(**permissions)) == expected


def test_a_grant_of_the_conversation_counts_as_a_rule() -> None:
    assert decided(host(), "mcp__git__push") == ["ask", "allow"]
    assert decided(host(deny=("mcp__git__push",)), "mcp__git__push") == ["ask", "deny"]


async def test_a_call_goes_to_the_server() -> None:
    result = await host().call(HostedTool.of(WRITE), {"a": 1})
    assert result["asked"] == ["push", {"a": 1}]
