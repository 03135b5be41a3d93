"""Approved calls of MCP servers' tools: each is made once, also over a restart."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from ccapi.actors.mcp.host import McpHost
from ccapi.actors.mcp.servers import McpServers
from ccapi.actors.responses.approved_calls import Approved, ApprovedCalls
from ccapi.actors.runtime.bus import Bus
from ccapi.schemas.errors import Conflict, Overloaded
from ccapi.schemas.mcp_tools import ServerTool
from ccapi.schemas.message import Approval, ToolCall, ToolResult
from ccapi.schemas.settings.settings import Settings

PUSH = ServerTool("git", "push", "mcp__git__push", "Pushes.", '{"type":"object"}', read_only=False)
CALL = ToolCall("toolu_1", PUSH.full_name, '{"to": "main"}')


class Git(McpServers):
    """A server that counts what it is asked."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[Mapping[str, Any]] = []

    def find(self, full_name: str) -> ServerTool | None:
        return PUSH if full_name == PUSH.full_name else None

    async def call(self, tool: ServerTool, arguments: Mapping[str, Any]) -> dict[str, Any]:
        self.asked.append(arguments)
        return {"content": [{"type": "text", "text": f"pushed {len(self.asked)}"}]}


class Claims:
    """What a store knows of, over all lives of a gateway. `works`: it takes claims."""

    def __init__(self) -> None:
        self.names: set[tuple[str, str]] = set()
        self.works = True

    async def claim(self, owner: str, name: str, digest: bytes, seconds: float) -> bool:
        if not self.works:
            raise Overloaded("The disk is full.")
        is_new = (owner, name) not in self.names
        self.names.add((owner, name))
        return is_new


def approved(request_id: str = "mcpr_1") -> Approved:
    approval = Approval(request_id, approve=True)
    return Approved(CALL, ToolResult(CALL.id, (), approval=approval), "input[0]")


def life(git: Git, claims: Claims) -> ApprovedCalls:
    return ApprovedCalls(git, McpHost(git, Settings()), Bus(), claims.claim)


async def test_a_request_that_is_sent_again_gets_what_came_of_the_call() -> None:
    git = Git()
    calls = life(git, Claims())
    for _ in range(2):
        result = await calls.once("me", approved())
        assert result.content == ("pushed 1",)
    assert git.asked == [{"to": "main"}]
    assert (await calls.once("me", approved("mcpr_2"))).content == ("pushed 2",)
    assert (await calls.once("you", approved())).content == ("pushed 3",)


async def test_after_a_restart_an_approval_is_used() -> None:
    git, claims = Git(), Claims()
    await life(git, claims).once("me", approved())
    with pytest.raises(Conflict, match="not made again") as refused:
        await life(git, claims).once("me", approved())
    assert (refused.value.code, refused.value.param) == ("approval_used", "input[0]")
    assert len(git.asked) == 1


async def test_a_call_that_cannot_be_claimed_is_not_made_and_may_come_again() -> None:
    git, claims = Git(), Claims()
    calls = life(git, claims)
    claims.works = False
    with pytest.raises(Overloaded):
        await calls.once("me", approved())
    assert git.asked == []
    claims.works = True
    assert (await calls.once("me", approved())).content == ("pushed 1",)
