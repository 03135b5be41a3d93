"""The link to one MCP server: a transport's streams, the handshake, and requests.

Knows: the `mcp` package's session and what its errors mean. Refuses to know: when a server is
connected to again (`actors.mcp.server`), and which tools are fit for a conversation
(`schemas.mcp_tools`).

The package's session makes the handshake; lists and calls go through its dispatcher as they are,
since the session refuses a whole list for one tool that is none, and a result for what the tool's
own schema says of it. This module loads asyncio (never run: all of it runs on trio) and takes half
a second to import, so it is imported in a thread, and only when there are servers.

Source: Model Context Protocol 2025-11-25; `mcp` 2.3.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import anyio
import trio
from mcp.client.session import ClientSession, IncomingMessage
from mcp.shared.exceptions import MCPError
from mcp.shared.jsonrpc_dispatcher import JSONRPCDispatcher
from mcp.shared.message import SessionMessage
from mcp_types import (
    METHOD_NOT_FOUND,
    Implementation,
    JSONRPCNotification,
    JSONRPCRequest,
    ToolListChangedNotification,
)

from ...schemas.mcp_config import ServerEntry, StdioEntry
from ...schemas.mcp_tools import MAX_TOOLS
from ..loggers import get_logger
from ..process.guardian import Guardian
from .http import open_http
from .interface import CallError, Link, LinkError, LinkOptions
from .sse import open_events
from .stdio import open_program
from .streams import Streams

log = get_logger("ccapi.mcp")

MAX_PAGES = 100
"""Pages of a list of tools that are asked for: a server may say for ever that there are more."""

CLOSED = "Connection closed"
"""What the dispatcher says of every request when the connection ends."""

for _name in ("client", "mcp"):
    # They write what servers say, URLs with what is secret in them, and tracebacks. What matters of
    # it is in our own lines.
    logging.getLogger(_name).setLevel(logging.CRITICAL)


class _Received:
    """The messages of a server, as the dispatcher reads them. `ended` is set with the last."""

    def __init__(self, inner: Any, ended: trio.Event, log_as: str = "") -> None:
        self._inner = inner
        self._ended = ended
        self._log_as = log_as

    async def receive(self) -> SessionMessage | Exception:
        try:
            message: SessionMessage | Exception = await self._inner.receive()
        except (anyio.EndOfStream, anyio.ClosedResourceError):
            self._ended.set()
            raise
        if self._log_as:
            _log_method(self._log_as, "from", message)
        return message

    async def aclose(self) -> None:
        self._ended.set()
        await self._inner.aclose()

    def __aiter__(self) -> _Received:
        return self

    async def __anext__(self) -> SessionMessage | Exception:
        try:
            return await self.receive()
        except anyio.EndOfStream:
            raise StopAsyncIteration from None

    async def __aenter__(self) -> _Received:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


class _Sent:
    """What is sent to a server, its names logged."""

    def __init__(self, inner: Any, server: str) -> None:
        self._inner = inner
        self._server = server

    async def send(self, message: SessionMessage, /) -> None:
        _log_method(self._server, "to", message)
        await self._inner.send(message)

    async def aclose(self) -> None:
        await self._inner.aclose()

    async def __aenter__(self) -> _Sent:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


def _log_method(server: str, direction: str, message: SessionMessage | Exception) -> None:
    match message:
        case SessionMessage(JSONRPCRequest() | JSONRPCNotification() as spoken):
            log.info("an MCP message", server=server, direction=direction, method=spoken.method)
        case SessionMessage(spoken):
            kind = type(spoken).__name__.removeprefix("JSONRPC").lower()
            log.info("an MCP message", server=server, direction=direction, method=kind)


class _SessionLink:
    """A `Link` over a session that is initialized."""

    def __init__(self, dispatcher: JSONRPCDispatcher, streams: Streams) -> None:
        self._dispatcher = dispatcher
        self._streams = streams
        self.ended = streams.ended

    async def list_tools(self) -> list[Any]:
        tools: list[Any] = []
        cursor: str | None = None
        for _ in range(MAX_PAGES):
            page = await self._request("tools/list", {} if cursor is None else {"cursor": cursor})
            listed = page.get("tools")
            if not isinstance(listed, list):
                raise CallError("it answered tools/list with no list")
            tools += listed
            cursor = page.get("nextCursor")
            if not isinstance(cursor, str) or not cursor or len(tools) > MAX_TOOLS:
                break
        return tools

    async def call(self, name: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
        return await self._request("tools/call", {"name": name, "arguments": dict(arguments)})

    async def _request(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        try:
            return await self._dispatcher.send_raw_request(method, params)
        except MCPError as error:
            if self.ended.is_set() or error.error.message == CLOSED:
                raise self._streams.failure() or LinkError("the connection to it ended") from error
            raise CallError(error.message) from error


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("claude-code-api")
    except PackageNotFoundError:
        return "0"


def _transport(
    entry: ServerEntry, options: LinkOptions, guardian: Guardian | None
) -> AbstractAsyncContextManager[Streams]:
    if isinstance(entry, StdioEntry):
        assert guardian is not None, "a program needs the guardian"
        return open_program(entry, options, guardian)
    return (open_http if entry.transport == "http" else open_events)(entry, options)


@asynccontextmanager
async def open_link(
    entry: ServerEntry, options: LinkOptions, guardian: Guardian | None
) -> AsyncIterator[Link]:
    """Connect to a server, and keep the connection while the block runs. How long that may take is
    the caller's to bound.

    Raises `LinkError` (`NeedsAuth` among them) where it cannot be connected to, and when the block
    has ended, which it should when the connection has: why that was so is known only then.
    """
    failure: LinkError | None = None
    streams: Streams | None = None
    try:
        async with _transport(entry, options, guardian) as streams:
            received = _Received(streams.received, streams.ended, entry.name * options.debug)
            sent = _Sent(streams.outgoing, entry.name) if options.debug else streams.outgoing

            async def handle(message: IncomingMessage) -> None:
                if isinstance(message, ToolListChangedNotification):
                    options.changed()

            dispatcher = JSONRPCDispatcher(received, sent)
            info = Implementation(name="ccapi", version=_version())
            async with ClientSession(
                dispatcher=dispatcher, client_info=info, message_handler=handle
            ) as session:
                failure = await _initialize(session)
                if failure is None:
                    yield _SessionLink(dispatcher, streams)
                    failure = LinkError("the connection to it ended")
    except* LinkError as group:
        failure = next(_leaves(group))
    except* Exception as group:  # noqa: BLE001 (of the package's tasks: any may break)
        # Its text may hold the URL.
        failure = LinkError(f"the connection broke ({type(next(_leaves(group))).__name__})")
    assert failure is not None
    if streams is not None:
        failure = streams.failure() or failure
        failure.detail = streams.stderr()
    raise failure


async def _initialize(session: ClientSession) -> LinkError | None:
    """The handshake; or why there is none."""
    try:
        await session.initialize()
    except MCPError as error:
        if error.code == METHOD_NOT_FOUND:
            return LinkError("there is no MCP server at that address (HTTP 404)")
        return LinkError("it refused the handshake")
    except ValueError:  # its words quote what the server said
        return LinkError("it answered the handshake with what is none")
    except RuntimeError:
        return LinkError("it speaks no version of the protocol that the gateway speaks")
    return None


def _leaves(group: BaseExceptionGroup[Any]) -> Iterator[Any]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error
