"""The child pool: owns every child process, keeps warm ones for adoption, bounds them all.

Knows: how many children live, who waits for one, who could do without theirs. Refuses to know:
what a child is told, and what a conversation is.

Every child has a keeper, a task in the pool's nursery that stays with it from spawn to burial. So
a session only borrows a child, and nothing a session does or suffers can leave one behind. Room
is decided synchronously (`_grant`); what takes time is done after. The bound counts warm children
too: they make way for whoever needs the room.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import structlog
import trio
from attrs import define, field, frozen

from ..schemas.errors import ChildDied, GatewayError, Overloaded, RateLimited
from ..schemas.events import ChildAdopted, ChildExited, ChildFrozen, ChildSpawned
from ..schemas.settings import ClaudeSettings
from ..schemas.turn import ResumePoint
from ..transport.child import Child, open_child
from ..transport.cli import Cli
from ..transport.guardian import Guardian, open_guardian
from .bus import Bus

log = structlog.get_logger("ccapi.pool")

REFILL_PAUSE = 0.5, 30.0
"""Seconds before another child is warmed when the last one died: at first, and at most."""

SPAWN_SECONDS = 20.0
"""Bound on starting the process itself (not on its boot), usually a few milliseconds."""


@frozen
class PoolStatistics:
    """Children by what they do, and turns that wait for one. `limit` bounds `live`."""

    limit: int
    live: int
    warm: int
    idle: int
    waiting: int


@define(eq=False)
class _Waiter:
    """Someone who waits for room. `granted` means: one place is theirs, already counted."""

    granted: trio.Event = field(factory=trio.Event)


@define
class _Pace:
    """How fast places come free, for a truthful retry-after. Seconds."""

    interval: float | None = None
    last: float | None = None

    def released(self, now: float) -> None:
        if self.last is not None:
            gap = now - self.last
            self.interval = gap if self.interval is None else 0.7 * self.interval + 0.3 * gap
        self.last = now

    def expect(self, position: int, now: float, fallback: float) -> float:
        """When the one at `position` (from 1) in the queue may count on a place."""
        if self.interval is None or self.last is None:
            return fallback
        # A place that is overdue shows that the pace has slowed down.
        return position * max(self.interval, now - self.last, 1.0)


class ChildPool:
    """Made by `open_pool`. All decisions are synchronous; only `acquire` waits."""

    def __init__(
        self, cli: Cli, settings: ClaudeSettings, bus: Bus, guardian: Guardian,
        nursery: trio.Nursery,
    ) -> None:  # fmt: skip
        self._cli = cli
        self._settings = settings
        self._bus = bus
        self._guardian = guardian
        self._nursery = nursery
        self._places = 0  # children alive or on their way, warm ones included
        self._children: set[Child] = set()
        self._warm: deque[Child] = deque()
        self._idle: dict[Child, Callable[[], None]] = {}  # least recently used first
        self._making_way: set[Child] = set()
        self._waiters: deque[_Waiter] = deque()
        self._refill = trio.Event()
        self._failures = 0  # warm children that died since one was adopted
        self._pace = _Pace()
        self._closing = False

    def __repr__(self) -> str:
        return f"<ChildPool {self.statistics()}>"

    def statistics(self) -> PoolStatistics:
        return PoolStatistics(
            limit=self._settings.max_concurrent_sessions,
            live=self._places,
            warm=len(self._warm),
            idle=len(self._idle),
            waiting=len(self._waiters),
        )

    # -- for sessions ------------------------------------------------------------------------------

    async def acquire(self, conversation_id: str, resume: ResumePoint | None) -> Child:
        """A child for one conversation: a warm one, a new one, or one that resumes.

        Waits while there is no room, for `claude.queue_timeout_seconds` at most. Raises
        `RateLimited` when the queue is full or the wait was in vain, `ChildDied` or `Overloaded`
        when a child cannot be started. It goes back by `Child.retire` or `Child.kill`.
        """
        began = trio.current_time()
        child = self._take_warm() if resume is None and not self._waiters else None
        warm = child is not None
        if child is None:
            await self._wait_for_room()
            child = await self._spawn(resume)
        waited = trio.current_time() - began
        self._bus.publish(ChildAdopted(child.pid, conversation_id, warm, waited))
        return child

    def offer(self, child: Child, give_way: Callable[[], None]) -> None:
        """This child is idle. When others need the room, `give_way` is called, at once and
        synchronously; it must retire the child."""
        self._idle[child] = give_way
        self._make_way()

    def withdraw(self, child: Child) -> None:
        """This child is in use again, or going."""
        self._idle.pop(child, None)

    def freeze(self, child: Child) -> None:
        """Stop an idle child's clock until it is written to."""
        child.freeze()
        self._bus.publish(ChildFrozen(child.pid))

    # -- room --------------------------------------------------------------------------------------

    def _take_warm(self) -> Child | None:
        while self._warm:
            child = self._warm.popleft()  # the oldest is the readiest
            if not child.leave.is_set():
                self._failures = 0
                self._refill.set()
                return child
        return None

    async def _wait_for_room(self) -> None:
        """Return with one place counted as the caller's."""
        limit, queue = self._settings.max_concurrent_sessions, self._waiters
        if not queue and self._places < limit:
            self._places += 1
            return
        if len(queue) >= self._settings.max_waiting_turns:
            raise self._full(f"All {limit} children are busy, and {len(queue)} turns wait already.")
        waiter = _Waiter()
        queue.append(waiter)
        self._make_way()
        patience = self._settings.queue_timeout_seconds
        try:
            with trio.move_on_after(patience):
                await waiter.granted.wait()
        except BaseException:
            if waiter.granted.is_set():
                self._give_back()
            else:
                queue.remove(waiter)
            raise
        if not waiter.granted.is_set():
            queue.remove(waiter)
            raise self._full(f"All {limit} children were busy for {patience:g} seconds.")

    def _full(self, message: str) -> RateLimited:
        fallback = self._settings.queue_timeout_seconds
        position = len(self._waiters) + 1
        wait = self._pace.expect(position, trio.current_time(), fallback)
        return RateLimited(message, retry_after=wait)

    def _give_back(self) -> None:
        """A place is free: whoever waits longest gets it."""
        self._places -= 1
        while self._waiters and self._places < self._settings.max_concurrent_sessions:
            self._places += 1
            self._waiters.popleft().granted.set()
        self._refill.set()

    def _make_way(self) -> None:
        """For each one who waits, have one child go that nobody is using."""
        while len(self._waiters) > len(self._making_way):
            if self._warm:
                # Whoever waits could not use it: it needs a child that resumes.
                child = self._warm.pop()
                child.kill()
            elif self._idle:
                child = next(iter(self._idle))
                self._idle.pop(child)()
            else:
                return
            self._making_way.add(child)

    # -- keeping -----------------------------------------------------------------------------------

    async def _spawn(self, resume: ResumePoint | None) -> Child:
        """Start a child on a place that is already counted. Its keeper gives the place back."""
        if self._closing:
            raise Overloaded("The gateway is stopping.", code="draining")
        child: Child | None = None
        # Shielded, so that a caller that is cancelled cannot lose the child it was just given.
        with trio.move_on_after(SPAWN_SECONDS, shield=True):
            child = await self._nursery.start(self._keep, resume)
        if child is None:
            raise ChildDied("The CLI process could not be started in time.")
        return child

    async def _keep(self, resume: ResumePoint | None, task_status: trio.TaskStatus[Child]) -> None:
        """Stay with one child from spawn to burial."""
        try:
            async with open_child(self._cli.command(resume), self._guardian) as child:
                self._children.add(child)
                self._bus.publish(ChildSpawned(child.pid, resumed=resume is not None))
                task_status.started(child)
                with trio.move_on_after(self._settings.freeze_after_seconds or math.inf):
                    await child.leave.wait()
                if child in self._warm:
                    self.freeze(child)
                await child.leave.wait()
            self._bury(child)
        finally:
            self._give_back()

    def _bury(self, child: Child) -> None:
        self._children.discard(child)
        self._making_way.discard(child)
        self._idle.pop(child, None)
        if child in self._warm:
            self._warm.remove(child)
            self._failures += 1
            log.warning("a warm child died", pid=child.pid, stderr=child.stderr_tail[-500:])
        self._pace.released(trio.current_time())
        self._bus.publish(ChildExited(child.pid, child.returncode, child.expected))

    async def keep_warm(self) -> None:
        """Keep `claude.prewarm` children ready, as far as the bound leaves room. Never ends."""
        while True:
            while self._wants_warm():
                if self._failures:
                    first, most = REFILL_PAUSE
                    await trio.sleep(min(most, first * 2 ** min(self._failures - 1, 10)))
                    if not self._wants_warm():
                        break
                self._places += 1
                try:
                    child = await self._spawn(None)
                except GatewayError as error:
                    self._failures += 1
                    log.warning("no child could be warmed", error=error.message)
                    continue
                if child.leave.is_set():
                    self._failures += 1
                else:
                    self._warm.append(child)
            self._refill = trio.Event()
            await self._refill.wait()

    def _wants_warm(self) -> bool:
        return (
            len(self._warm) < self._settings.prewarm
            and self._places < self._settings.max_concurrent_sessions
            and not self._waiters
        )

    def kill_all(self) -> None:
        """End every child at once, without the stop sequence."""
        self._closing = True
        for child in self._children:
            child.kill()


@asynccontextmanager
async def open_pool(cli: Cli, settings: ClaudeSettings, bus: Bus) -> AsyncIterator[ChildPool]:
    """Run a pool while the block runs; after it no child is left, its own children included."""
    async with open_guardian() as guardian, trio.open_nursery() as nursery:
        pool = ChildPool(cli, settings, bus, guardian, nursery)
        nursery.start_soon(pool.keep_warm)
        try:
            yield pool
        finally:
            pool._closing = True  # noqa: SLF001 (the two are one thing)
            nursery.cancel_scope.cancel()
