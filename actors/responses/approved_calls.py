"""Calls of MCP servers' tools that a client has approved, each made once.

Knows: which of these calls were made, and what came of them. Refuses to know: requests, and what
needs approval (`actors.responses.mcp_tools`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any

import trio
from attrs import define, evolve, field, frozen

from ...schemas.errors import Conflict, Overloaded
from ...schemas.events import ToolDecided
from ...schemas.mcp_tools import error_result
from ...schemas.message import Image, ToolCall, ToolResult
from ...schemas.turn import HostedTool
from ..mcp.host import McpHost
from ..mcp.servers import McpServers
from ..runtime.bus import Bus
from ..session.hosted import DENIED_BY_RULE

Claim = Callable[[str, str, bytes, float], Awaitable[bool]]
"""Whether something may be done that is done once: `IdempotentRequests.claim_once`."""

REMEMBERED_SECONDS = 30 * 86400.0

MAX_REMEMBERED = 10_000
MAX_REMEMBERED_CHARACTERS = 16 * 1024 * 1024
"""Of what came of approved calls, so that a request which is sent again gets the same."""


@frozen
class Approved:
    """A call that waits, and the client's answer to the request for its approval, at `path`."""

    call: ToolCall
    result: ToolResult
    path: str

    @property
    def request_id(self) -> str:
        assert self.result.approval is not None
        return self.result.approval.request_id


@define(eq=False)
class _Made:
    """A call that was made, or is being made. `result` None: nothing is known of it (yet)."""

    result: ToolResult | None = None
    over: trio.Event = field(factory=trio.Event)


class ApprovedCalls:
    """What came of calls that were approved, by whose they were and what asked for approval.

    A call is claimed in the store before it is made, so that it is made at most once, whatever ends
    in between; what came of it is remembered here alone."""

    def __init__(self, servers: McpServers, host: McpHost, bus: Bus, claim: Claim) -> None:
        self._bus = bus
        self._claim = claim
        self._servers = servers
        self._host = host
        self._made: dict[tuple[str, str], _Made] = {}
        self._size = 0

    def __repr__(self) -> str:
        return f"<ApprovedCalls {len(self._made)}>"

    async def once(
        self,
        owner: str,
        approved: Approved,
        conversation_id: str = "",
        by_url: Sequence[HostedTool] = (),
    ) -> ToolResult:
        """Make the call, unless it was made already. `conversation_id`: of which it is, where that
        is known. `by_url`: the tools of servers that the request names by URL. Raises `Conflict`
        where nothing is known any more of what came of the call."""
        key = owner, approved.request_id
        made = self._made.get(key)
        if made is None:
            made = self._made[key] = _Made()
            try:
                digest = hashlib.sha256(approved.call.arguments.encode("utf-8", "surrogatepass"))
                name = f"approval {approved.request_id}"
                if not await self._claim(owner, name, digest.digest(), REMEMBERED_SECONDS):
                    raise _used(approved.path)
                made.result = await self._make(owner, approved, conversation_id, by_url)
                self._size += _length(made.result)
            except Overloaded:  # nothing was done: the request may come again
                del self._made[key]
                raise
            finally:
                made.over.set()
                self._forget()
        await made.over.wait()
        if made.result is None:
            raise _used(approved.path)
        return evolve(made.result, approval=approved.result.approval)

    async def _make(
        self, owner: str, approved: Approved, conversation_id: str, by_url: Sequence[HostedTool]
    ) -> ToolResult:
        call = approved.call
        own = {tool.name: tool.source for tool in by_url}
        tool = own.get(call.name) or self._servers.find(call.name)
        is_denied = tool is not None and self._host.decide(HostedTool.of(tool), ()) == "deny"
        if tool is not None:
            decided = ("deny", "rule") if is_denied else ("allow", "approval")
            self._bus.publish(
                ToolDecided(
                    conversation_id, owner, "", approved.request_id, tool.full_name, *decided
                )
            )
        if tool is None:
            given: Any = error_result("There is no such tool any more.")
        elif is_denied:
            given = error_result(DENIED_BY_RULE)
        elif not call.has_input:
            given = error_result("The arguments are not a JSON object.")
        else:
            given = await self._servers.call(tool, call.input)
        return ToolResult(call.id, tuple(_content(given)), given.get("isError") is True)

    def _forget(self) -> None:
        """The oldest results; that a call was made is remembered longer."""
        for made in self._made.values():
            if self._size <= MAX_REMEMBERED_CHARACTERS:
                break
            if made.result is not None:
                self._size -= _length(made.result)
                made.result = None
        while len(self._made) > MAX_REMEMBERED:
            oldest = self._made.pop(next(iter(self._made)))
            self._size -= 0 if oldest.result is None else _length(oldest.result)


def _used(path: str) -> Conflict:
    return Conflict(
        "This call was approved and made before, and what came of it is not known: it is not made "
        "again.",
        code="approval_used",
        param=path,
    )


def _content(given: dict[str, Any]) -> Iterator[str | Image]:
    """What the model reads of a ``CallToolResult``: the structured form, where there is one, as the
    CLI has it."""
    blocks = given.get("content")
    empty = True
    if (structured := given.get("structuredContent")) is not None:
        yield json.dumps(structured, ensure_ascii=False, separators=(",", ":"))
        return
    for block in blocks if isinstance(blocks, list) else ():
        empty = False
        match block:
            case {"type": "text", "text": str(text)}:
                yield text
            case {"type": "image", "data": str(data), "mimeType": str(media_type)}:
                yield Image(media_type, data)
            case _:
                yield json.dumps(block, ensure_ascii=False)
    if empty:
        yield "(no output)"


def _length(result: ToolResult) -> int:
    return sum(len(block if isinstance(block, str) else _data(block)) for block in result.content)


def _data(block: Any) -> str:
    data: str = block.data
    return data
