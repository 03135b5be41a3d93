"""The calls of MCP servers' tools in a present child: which wait for permission, which run.

The CLI passes each of these calls on unasked, since the gateway decides which call needs
permission, for plain models as for agents: `decide` in `Host`, by the operator's rules and the
conversation's own. Knows: the calls under way. Refuses to know: phases and turns, the lines to the
child (`actors.session.tools`), and the servers (`actors.mcp`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from attrs import define, field

from ...schemas.claude.output import PermissionAsked
from ...schemas.mcp_rules import Decision
from ...schemas.turn import HostedTool, Setup
from .tools import HostedCall

TURN_IS_OVER = "The turn was stopped, so this was not done."
DENIED_BY_RULE = "The operator's rules do not permit this, so it was not done."


class Host(Protocol):
    """What a session needs of the MCP servers (`actors.mcp.host`)."""

    def offers(self, setup: Setup) -> tuple[HostedTool, ...]:
        """The tools that every conversation with such a setup has. The same tuple as long as
        nothing has changed."""

    def started_by(self, setup: Setup) -> Mapping[str, Mapping[str, Any]]:
        """The servers that a child with such a setup starts itself, as `set_server` takes them."""

    def decide(self, tool: HostedTool, grants: Sequence[str]) -> Decision:
        """Whether the model may call it, by the rules and what was granted in its conversation."""

    async def call(self, tool: HostedTool, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        """What comes of a call: an MCP ``CallToolResult``. Errors are results, too."""


class NoHost:
    """There are no MCP servers."""

    def offers(self, setup: Setup) -> tuple[HostedTool, ...]:
        return ()

    def started_by(self, setup: Setup) -> Mapping[str, Mapping[str, Any]]:
        return {}

    def decide(self, tool: HostedTool, grants: Sequence[str]) -> Decision:
        return "deny"

    async def call(self, tool: HostedTool, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        raise AssertionError("no tool was offered")


@define
class HostedCalls:
    """The calls of one child that the gateway makes. `is_busy`: a server works on one, so the child
    may be silent."""

    _asking: dict[str, HostedCall] = field(factory=dict)  # by the id of the permission request
    _running: set[str] = field(factory=set)  # by call id

    @property
    def is_busy(self) -> bool:
        return bool(self._running)

    def ask(self, call: HostedCall) -> PermissionAsked:
        """The call needs permission: what its clients are asked."""
        asked = PermissionAsked(
            f"mcp_{call.call_id}", call.tool.name, dict(call.arguments), call_id=call.call_id
        )
        self._asking[asked.request_id] = call
        return asked

    def asked_for(self, request_id: str) -> HostedCall | None:
        """The call that this permission request is about, which is settled now."""
        return self._asking.pop(request_id, None)

    def begin(self, call: HostedCall) -> None:
        self._running.add(call.call_id)

    def end(self, call_id: str) -> None:
        self._running.discard(call_id)

    def forget(self) -> None:
        """The turn is over, and its calls with it."""
        self._asking.clear()
        self._running.clear()
