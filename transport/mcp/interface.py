"""What a link to an MCP server is, for those who use one.

Knows: what a link can do, and how it ends. Refuses to know: the `mcp` package, which the modules
that make links import, and which is there only with the extra of that name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

import trio
from attrs import field, frozen

from ...schemas.mcp_config import ServerEntry
from ..process.guardian import Guardian


class LinkError(Exception):
    """The server cannot be reached, or no longer. `reason` is for people and has no secret in it;
    `cure` is what the operator can do, where that is known; `detail` is what the server wrote last
    to stderr, which only the operator may see."""

    def __init__(self, reason: str, detail: str = "", cure: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.detail = detail
        self.cure = cure


class NeedsAuth(LinkError):
    """The server asks for an authorization that its entry does not have."""


class CallError(Exception):
    """The server answered a request with an error. The text is the server's."""


@frozen
class LinkOptions:
    """How a link is made. `environ` is what a program may inherit from; a message of more than
    `max_message_bytes` is an error; a server that is silent in a call for longer than
    `call_timeout_seconds` has the call's connection closed. `debug`: log all of its stderr and the
    names of messages. `changed` is called when the server says that its tools are others."""

    environ: Mapping[str, str] = field(repr=False)
    max_message_bytes: int
    call_timeout_seconds: float
    debug: bool
    changed: Callable[[], None]


class Link(Protocol):
    """A connection to a server, ready for any number of calls at once."""

    @property
    def ended(self) -> trio.Event:
        """Set when the connection is over: the block of `open_link` should end, and then raises
        `LinkError`, which says why."""

    async def list_tools(self) -> list[Any]:
        """The tools as the server lists them, of all pages. Raises `LinkError`, `CallError`."""

    async def call(self, name: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """The server's ``CallToolResult``. Cancelled, the call is cancelled at the server too.
        Raises `LinkError`, `CallError`."""


Connect = Callable[[ServerEntry, LinkOptions, Guardian | None], AbstractAsyncContextManager[Link]]
"""`transport.mcp.link.open_link`, or what stands for it in tests."""
