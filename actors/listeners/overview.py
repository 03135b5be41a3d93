"""The overview: the gateway as a whole in one picture, renewed when something changes.

Knows: what is in the picture, and how seldom it needs to be drawn. Refuses to know: sockets, and
who may look.

The picture is drawn once for each key whose holders are looking, however many they are. No client
is waited for: who is slow misses pictures, and sees the latest when ready.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any, Protocol, get_args

import trio
from attrs import asdict, frozen

from ...schemas.convert import write_json
from ...schemas.turn import ChildSource
from ...transport.http.websocket import encode_frame
from ..mcp.servers import McpServers, ServerState
from ..nodes.figures import NodeFigures
from ..pool.pool import PoolStatistics
from ..runtime.bus import Bus, Subscription
from .stats import Stats

if TYPE_CHECKING:
    from ..conversations.directory import Entry

INTERVAL = 0.2
"""Seconds between two pictures, at least; and how long what belongs together may take to happen."""

REFRESH = 5.0
"""Seconds after which there is a new picture though no event came."""

SHOWN = 200
"""Sessions in a picture, at most; those that do something first."""

NEWS = 16
"""Events kept for us. That something changed is all that matters, so most may be lost."""


_NO_CHILDREN = PoolStatistics(limit=0, live=0, warm=0, idle=0, waiting=0)
_NO_CACHE = {"hit": 0, "miss": 0, "joined": 0}


@frozen
class SessionInfo:
    """A session that has an actor. `conversation_id` is None where it is another key's; `since`:
    when it was last asked, or left (unix seconds)."""

    conversation_id: str | None
    phase: str
    model: str
    profile: str
    since: float
    turns: int


def session_info(entry: Entry, owner: str) -> SessionInfo:
    memory = entry.memory
    return SessionInfo(
        conversation_id=entry.conversation_id if entry.owner == owner else None,
        phase=entry.state.phase.value,
        model=memory.setup.model,
        profile=memory.setup.profile,
        since=entry.used_at,
        turns=memory.turns,
    )


@frozen
class GatewayStatistics:
    """How the gateway stands: children, sessions by phase, conversations, turns under way."""

    children: PoolStatistics
    sessions: Mapping[str, int]
    conversations: int
    turns_running: int
    draining: bool


@frozen
class OwnStatistics:
    """How the conversations of one key stand, for a client that sees no more."""

    sessions: Mapping[str, int]
    conversations: int
    turns_running: int
    draining: bool


class Observed(Protocol):
    """What the picture is drawn of: the gateway."""

    @property
    def bus(self) -> Bus: ...
    @property
    def stats(self) -> Stats: ...
    @property
    def mcp(self) -> McpServers: ...
    def statistics(self) -> GatewayStatistics: ...
    def own_statistics(self, owner: str) -> OwnStatistics: ...
    def sees_all(self, owner: str) -> bool: ...
    def sessions(self, *, owner: str) -> list[SessionInfo]: ...
    def node_figures(self) -> list[NodeFigures]: ...


class Overview:
    """Made by `open_overview`."""

    def __init__(self, gateway: Observed) -> None:
        self._gateway = gateway
        self._watchers = 0
        self._watched = trio.Event()
        self._pictures: dict[tuple[str, str], bytes] = {}
        self.number = 0
        self._lot = trio.lowlevel.ParkingLot()

    def __repr__(self) -> str:
        return f"<Overview picture {self.number}, {self._watchers} watching>"

    @contextmanager
    def watch(self) -> Iterator[None]:
        """While the block runs, pictures are renewed."""
        if not self._watchers:
            self._pictures.clear()  # drawn who knows when
        self._watchers += 1
        self._watched.set()
        try:
            yield
        finally:
            self._watchers -= 1

    async def wait_newer(self, number: int) -> None:
        """Wait until the picture is another one than `number`."""
        while number == self.number:
            await self._lot.park()

    def picture(self, owner: str, name: str = "overview") -> bytes:
        """The picture as a WebSocket frame, with the ids of `owner`'s conversations alone. `name`
        is its type."""
        frame = self._pictures.get((owner, name))
        if frame is None:
            drawn = {"type": name, **self._draw(owner)}
            frame = self._pictures[owner, name] = encode_frame(write_json(drawn))
        return frame

    def _draw(self, owner: str) -> dict[str, Any]:
        """Of the gateway; for a key that may not see that, of its own conversations, without what
        all share."""
        gateway = self._gateway
        sees_all = gateway.sees_all(owner)
        numbers = gateway.stats.snapshot(None if sees_all else owner)
        turns = numbers["turns"]
        sessions = gateway.sessions(owner=owner)
        phases = Counter(session.phase for session in sessions)
        sessions.sort(key=lambda session: (session.phase == "asleep", -session.since))
        statistics: GatewayStatistics | OwnStatistics
        shared: dict[str, Any]
        if not sees_all:
            statistics = gateway.own_statistics(owner)
            shared = {"children": asdict(_NO_CHILDREN), "cache": _NO_CACHE}
            by_child = dict.fromkeys(get_args(ChildSource), 0)
        else:
            statistics = whole = gateway.statistics()
            by_child = numbers["children"]["turns"]
            shared = {
                "children": asdict(whole.children),
                "cache": numbers["cache"],
                "logins": numbers["logins"],
                "mcp": [_encode_server(state) for state in gateway.mcp.states()],
            }
            nodes = gateway.node_figures()
            if len(nodes) > 1:
                shared["nodes"] = [node.encode() for node in nodes]
        return {
            "at": round(time.time(), 3),
            "uptime_seconds": numbers["uptime_seconds"],
            "draining": statistics.draining,
            "sessions": [_encode_session(session) for session in sessions[:SHOWN]],
            "phases": phases,
            "conversations": statistics.conversations,
            "turns": {
                "running": statistics.turns_running,
                "started": turns["started"],
                "finished": turns["finished"],
                "failed": sum(turns["failed"].values()),
                "by_child": by_child,
            },
            "tokens": numbers["tokens"],
            "cost_usd": numbers["cost_usd"],
            "latency": numbers["latency"],
            **shared,
        }

    async def run(self) -> None:
        """Renew the picture, while a client watches."""
        while True:
            await self._watched.wait()
            with self._gateway.bus.subscribe(buffer=NEWS) as news:
                while self._watchers:
                    with trio.move_on_after(REFRESH - INTERVAL):
                        await _wait_for_event(news)
                    await trio.sleep(INTERVAL)
                    _discard_events(news)
                    self._renew()
            self._watched = trio.Event()

    def _renew(self) -> None:
        self._pictures.clear()
        self.number += 1
        self._lot.unpark_all()


def _encode_server(state: ServerState) -> dict[str, Any]:
    return {
        "name": state.name,
        "state": state.state,
        "reason": state.reason,
        "next_try": state.next_try,
        "tools": state.tools,
        "calls": state.calls,
        "errors": state.errors,
        "latency_ms": state.latency_ms["p50"],
    }


def _encode_session(session: SessionInfo) -> dict[str, Any]:
    return {
        "id": session.conversation_id,
        "phase": session.phase,
        "model": session.model,
        "profile": session.profile,
        "since": round(session.since, 3),
        "turns": session.turns,
    }


async def _wait_for_event(news: Subscription) -> None:
    """Wait for an event; for ever, where none will come any more."""
    try:
        await anext(news)
    except StopAsyncIteration:
        await trio.sleep_forever()


def _discard_events(news: Subscription) -> None:
    try:
        while True:
            news.receive_nowait()
    except (trio.WouldBlock, trio.EndOfChannel):
        pass


@asynccontextmanager
async def open_overview(gateway: Observed) -> AsyncIterator[Overview]:
    """Draw the pictures of `gateway` while the block runs."""
    overview = Overview(gateway)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(overview.run)
        yield overview
        nursery.cancel_scope.cancel()
