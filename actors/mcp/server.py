"""The actor of one MCP server: keeps it connected, knows its tools, passes calls on.

Knows: when a server is connected to again, and what comes of a call when it is not there. Refuses
to know: how it is reached (`transport.mcp`), and other servers.

The states: ``connecting`` (for `mcp.start_timeout_seconds` at most) -> ``ready``, until the
connection ends; ``failed``, until the pause is over that grows with each failure; ``needs_auth``,
until the operator changes the entry. Only `Server.run` assigns the state.

A call never waits for a server that is not connected: what it would come to is an error that the
model reads. When a connection ends, all its calls end at once.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Literal

import trio
from attrs import field, frozen

from ...schemas.events import McpCalled, McpServerChanged
from ...schemas.mcp_config import ServerEntry, covered
from ...schemas.mcp_tools import LeftOut, ServerTool, clean_tools, error_result
from ...schemas.settings.settings import McpSettings
from ...transport.loggers import get_logger
from ...transport.mcp.interface import (
    CallError,
    Connect,
    Link,
    LinkError,
    LinkOptions,
    NeedsAuth,
)
from ...transport.process.guardian import Guardian
from ..runtime.bus import Bus

log = get_logger("ccapi.mcp")

PAUSE_SECONDS = 0.5, 30.0
"""Pause before a server is connected to again: after the first failure, and at most."""

STEADY_SECONDS = 30.0
"""A connection that lasted so long was well: the pause begins anew."""

LISTING_SECONDS = 0.2
"""Two lists of tools are so far apart, at least, however often the server says that they change."""

RECENT = 256
"""Calls whose latency is shown: the latest."""

State = Literal["connecting", "ready", "needs_auth", "failed"]


@frozen(kw_only=True)
class ServerState:
    """How a server stands.

    `reason`: why it is not ready. `next_try`: seconds until it is connected to again (None: it is
    ready, connecting, or waits for the operator). `tools`: how many conversations can have;
    `left_out`: those that none can. `calls`, and `errors` among them (error results too), are
    counted since the gateway started; `latency_ms` has ``count``, ``mean``, ``p50``, ``p95``,
    ``p99`` and ``max`` of the latest `RECENT`.
    """

    name: str
    transport: Literal["stdio", "http", "sse"]
    state: State
    reason: str = ""
    next_try: float | None = None
    tools: int = 0
    calls: int = 0
    errors: int = 0
    latency_ms: Mapping[str, float | None] = field(factory=dict)
    left_out: tuple[LeftOut, ...] = ()


class Server:
    """One server. `run` is its actor; everything else is for those who use it."""

    def __init__(
        self,
        entry: ServerEntry,
        settings: McpSettings,
        environ: Mapping[str, str],
        bus: Bus,
        listed: Callable[[], None],
        *,
        counted_as: str | None = None,
    ) -> None:
        self.entry = entry
        self.tools: tuple[ServerTool, ...] = ()
        """What it had when it was connected last."""
        self.scope = trio.CancelScope()
        """Ends the actor."""
        self._settings = settings
        self._bus = bus
        self._listed = listed
        self._counted_as = counted_as  # one of the operator's is shown under its own name
        self._state: State = "connecting"
        self._reason = ""
        self._next_try = math.inf
        self._link: Link | None = None
        self._left_out: tuple[LeftOut, ...] = ()
        self._calls = 0
        self._errors = 0
        self._recent: deque[float] = deque(maxlen=RECENT)
        self._settled = trio.Event()
        self._tried = trio.Event()
        self._retry = trio.Event()
        self._changed = trio.Event()
        self._options = LinkOptions(
            environ,
            settings.max_result_bytes,
            settings.call_timeout_seconds,
            settings.debug,
            self._note_change,
        )

    def __repr__(self) -> str:
        return f"<Server {self.entry.name} {self._state}>"

    @property
    def ready(self) -> bool:
        return self._state == "ready"

    def state(self) -> ServerState:
        pause = self._next_try - trio.current_time()
        return ServerState(
            name=self.entry.name,
            transport=self.entry.transport,
            state=self._state,
            reason=self._reason,
            next_try=round(max(0.0, pause), 1) if pause < math.inf else None,
            tools=len(self.tools),
            calls=self._calls,
            errors=self._errors,
            latency_ms=_milliseconds(self._recent),
            left_out=self._left_out,
        )

    # -- calls -------------------------------------------------------------------------------------

    async def call(self, name: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """See `McpServers.call`."""
        began = trio.current_time()
        outcome: Literal["done", "error"] = "error"
        self._calls += 1
        try:
            result = await self._call(name, arguments)
            if result.get("isError") is not True:
                outcome = "done"
            return result
        finally:  # one that is cancelled counts as an error
            self._errors += outcome == "error"
            seconds = trio.current_time() - began
            self._recent.append(seconds)
            self._bus.publish(McpCalled(self._counted_as or self.entry.name, outcome, seconds))

    async def _call(self, name: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
        server, link = self.entry.name, self._link
        if link is None:
            reason = f" ({self._reason})" if self._reason else ""
            return error_result(f"The MCP server {server} is not connected{reason}.")
        seconds = self._settings.call_timeout_seconds
        try:
            with trio.move_on_after(seconds):
                result = await link.call(name, arguments)
                if not isinstance(result.get("content"), list):
                    return error_result(f"The MCP server {server} gave no result.")
                return result
        except CallError as error:
            said = self._covered(str(error))
            return error_result(f"The MCP server {server} answered with an error: {said}")
        except LinkError as error:
            return error_result(f"The MCP server {server} is gone: {self._covered(error.reason)}.")
        except Exception:
            log.exception("a call of an MCP server failed", server=server)
            return error_result(f"The MCP server {server} could not be called.")
        log.warning("an MCP server did not answer a call in time", server=server, seconds=seconds)
        return error_result(f"The MCP server {server} did not answer within {seconds:g} seconds.")

    # -- life --------------------------------------------------------------------------------------

    def retry(self) -> None:
        """Connect at once, if it is not connected."""
        self._retry.set()

    async def wait_ready(self) -> bool:
        """Wait until it is ready, or waits for the operator. Returns whether it is ready."""
        await self._settled.wait()
        return self.ready

    async def settle(self) -> None:
        """Wait for what the connection under way comes to; where there is none, begin one."""
        if not self.ready and self._state != "connecting" and self._tried.is_set():
            self._tried = trio.Event()
            self.retry()
        await self._tried.wait()

    async def run(self, connect: Connect, guardian: Guardian | None) -> None:
        """Keep the server connected until cancelled by `scope`."""
        with self.scope:
            first, most = PAUSE_SECONDS
            pause = first
            while True:
                self._retry = trio.Event()
                self._enter("connecting", self._reason)
                since = trio.current_time()
                failure = await self._connected(connect, guardian)
                if self._state == "ready" and trio.current_time() - since >= STEADY_SECONDS:
                    pause = first
                if isinstance(failure, NeedsAuth):
                    self._enter("needs_auth", failure.reason)
                    self._settled.set()
                    await self._retry.wait()
                    continue
                self._next_try = trio.current_time() + pause
                self._enter("failed", failure.reason)
                with trio.move_on_after(pause):
                    await self._retry.wait()
                pause = min(most, pause * 2)

    async def _connected(self, connect: Connect, guardian: Guardian | None) -> LinkError:
        """Connect, and be ready until the connection ends. Returns why it did, or was none."""
        seconds = self._settings.start_timeout_seconds
        try:
            with trio.CancelScope(deadline=trio.current_time() + seconds) as patience:
                async with connect(self.entry, self._options, guardian) as link:
                    await self._list(link)
                    patience.deadline = math.inf
                    self._link = link
                    self._enter("ready")
                    self._settled.set()
                    try:
                        await self._keep(link)
                    finally:
                        self._link = None
        except CallError as error:
            return LinkError(f"it answered tools/list with an error: {error}")
        except LinkError as error:
            return error
        except Exception as error:
            log.exception("the link to an MCP server failed", server=self.entry.name)
            return LinkError(f"the gateway's link to it failed ({type(error).__name__})")
        return LinkError(f"it was not ready within {seconds:g} seconds")

    async def _keep(self, link: Link) -> None:
        """List the tools again whenever they change, until the connection ends."""

        async def follow() -> None:
            while True:
                await self._changed.wait()
                try:
                    with trio.fail_after(self._settings.start_timeout_seconds):
                        await self._list(link)
                except (CallError, LinkError, trio.TooSlowError):
                    log.warning("an MCP server's tools cannot be listed", server=self.entry.name)
                await trio.sleep(LISTING_SECONDS)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(follow)
            await link.ended.wait()
            nursery.cancel_scope.cancel()

    async def _list(self, link: Link) -> None:
        self._changed = trio.Event()
        tools, left_out = clean_tools(self.entry.name, await link.list_tools())
        if left_out != self._left_out:
            for each in left_out:
                log.warning(
                    "a tool of an MCP server is left out",
                    server=self.entry.name,
                    tool=each.name,
                    reason=each.reason,
                )
        self._left_out = left_out
        if tools != self.tools:
            self.tools = tools
            self._listed()

    def _note_change(self) -> None:
        self._changed.set()

    def _covered(self, reason: str) -> str:
        return covered(reason, self.entry.hidden)

    def _enter(self, state: State, reason: str = "") -> None:
        self._state, self._reason = state, self._covered(reason)
        if state == "connecting":
            self._tried = trio.Event() if self._tried.is_set() else self._tried
        else:
            self._tried.set()
        if state != "failed":
            self._next_try = math.inf
        name = self.entry.name
        if state == "ready":
            log.info("an MCP server is ready", server=name, tools=len(self.tools))
        elif state != "connecting":
            pause = None if state == "needs_auth" else self.state().next_try
            log.warning(
                f"an MCP server {_SAID[state]}", server=name, reason=self._reason, next_try=pause
            )
        if self._counted_as is None:
            self._bus.publish(McpServerChanged(name, state))


_SAID = {"failed": "is not there", "needs_auth": "needs authorization"}


def _milliseconds(seconds: deque[float]) -> dict[str, float | None]:
    values = sorted(seconds)

    def rank(share: float) -> float | None:
        return round(values[math.ceil(share * len(values)) - 1] * 1000, 3) if values else None

    return {
        "count": len(values),
        "mean": round(math.fsum(values) / len(values) * 1000, 3) if values else None,
        "p50": rank(0.5),
        "p95": rank(0.95),
        "p99": rank(0.99),
        "max": rank(1),
    }
