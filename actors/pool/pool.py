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
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from itertools import islice
from typing import Protocol

import trio
from attrs import define, field, frozen

from ...schemas.errors import (
    ChildDied,
    CliUnusable,
    GatewayError,
    InternalError,
    NotLoggedIn,
    Overloaded,
    RateLimited,
)
from ...schemas.events import ChildAdopted, ChildExited, ChildFrozen, ChildSpawned
from ...schemas.settings.settings import ClaudeSettings
from ...schemas.turn import AgentOrigin, Origin
from ...transport.loggers import get_logger
from ...transport.process.child import Child, open_child
from ...transport.process.cli import Cli
from ...transport.process.guardian import open_guardian
from ...transport.process.leftovers import Trace
from ...transport.process.login import LEAN, Login
from ..runtime.bus import Bus
from ..runtime.once_log import OnceLog
from .cli_watch import CliWatch
from .wait_estimate import WaitEstimate

log = get_logger("ccapi.pool")

REFILL_PAUSE = 0.5, 30.0
"""Seconds before another child is warmed when the last one died: at first, and at most."""

REFILL_DELAY = 0.25
"""Seconds between an adoption and the boot of the next warm child."""

SETTLED_SECONDS = 2.0
"""A warm child that has lived so long has started; one that cannot is gone within half a second."""

TROUBLE_SECONDS = 30.0
"""How long a start that failed is held against the next one where no child is kept warm, so that
nothing but a turn would find out."""

SPAWN_SECONDS = 20.0
"""Bound on starting the process itself (not on its boot), usually a few milliseconds. A start that
hangs in the kernel cannot be given up: it would leave a process that nobody knows."""

OpenChild = Callable[[Origin | None], AbstractAsyncContextManager[Child]]
"""How a child comes to be, and goes (`open_pool`): all but its origin is given.

The block ends when `Child.leave` is set; `Child.gone` is set when the context has been left.
"""


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
    """Someone who waits for room. `served`: they have `child`, or else one place, counted."""

    takes_warm: bool
    served: trio.Event = field(factory=trio.Event)
    child: Child | None = None


class ChildPool:
    """Made by `run_pool`. All decisions are synchronous; only `acquire` waits."""

    def __init__(
        self, open_one: OpenChild, settings: ClaudeSettings, bus: Bus, nursery: trio.Nursery,
        known: Callable[[], Awaitable[object]],
        taken: Callable[[Trace | None, str], None] | None = None,
    ) -> None:  # fmt: skip
        self._taken = taken
        self._open = open_one
        self._known = known
        self._settings = settings
        self._bus = bus
        self._nursery = nursery
        self._places = 0  # children alive or on their way, warm ones included
        self._children: set[Child] = set()
        self._warm: deque[Child] = deque()
        self._idle: dict[Child, Callable[[], None]] = {}  # least recently used first
        self._suspended: dict[Child, Callable[[], None]] = {}  # they wait for tools' results
        self._making_way: set[Child] = set()
        self._waiters: deque[_Waiter] = deque()
        self._refill = trio.Event()
        self._warming = 0  # warm children on their way
        self._failures = 0  # warm children that died since one was adopted
        self._born: dict[Child, float] = {}
        self._outdated: set[Child] = set()  # not to be used for another turn
        self._renewals = 0
        self._trouble: GatewayError | None = None
        self._trouble_since = -math.inf
        self._once = OnceLog(log)
        self._pace = WaitEstimate(settings.max_concurrent_sessions, settings.timeout_seconds)
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

    @property
    def trouble(self) -> GatewayError | None:
        """Why no child can be started, if the last ones could not. It goes by itself, once one
        has."""
        now = trio.current_time()
        if any(now - self._born[child] >= SETTLED_SECONDS for child in self._warm):
            return None
        kept = self._settings.prewarm > 0 or now - self._trouble_since < TROUBLE_SECONDS
        if self._trouble is None or not kept:
            return None
        message = f"The CLI cannot be started: {self._trouble.message}"
        return CliUnusable(message, code=self._trouble.code)

    def renew(self) -> None:
        """Use no child for another turn that was started before now: those that nobody uses go at
        once, the others when their turn has ended. Turns that wait for tools go on in theirs."""
        self._renewals += 1
        self._outdated = set(self._children)
        for child in tuple(self._warm):
            self._warm.remove(child)
            child.retire()
        for child, give_way in tuple(self._idle.items()):
            if self._idle.pop(child, None) is not None:
                give_way()
        self._failures = 0
        self._refill.set()

    # -- for sessions ------------------------------------------------------------------------------

    async def acquire(self, conversation_id: str, origin: Origin | None) -> Child:
        """A child for one conversation: a warm one, a new one, or one that resumes.

        Waits while there is no room, for `claude.queue_timeout_seconds` at most. Raises
        `RateLimited` when the queue is full or the wait was in vain, `ChildDied`, `Overloaded` or
        `InternalError` when a child cannot be started, `Overloaded` (``draining``) when the pool
        is closing, and what `known` raises. It goes back by `Child.retire` or `Child.kill`.
        """
        await self._known()  # first: past its checkpoint, whoever is given a child receives it
        if self._closing:
            raise _stopping()
        began = trio.current_time()
        child = self._take_warm() if origin is None else None
        if child is None:
            child = await self._wait_for_room(takes_warm=origin is None)
        warm = child is not None
        if child is None:
            child = await self._spawn(origin)
        now = trio.current_time()
        if child in self._children:
            self._pace.taken(child, now)
            if self._taken is not None:
                self._taken(child.trace, conversation_id)
        self._bus.publish(ChildAdopted(child.pid, conversation_id, warm, now - began))
        return child

    def offer(self, child: Child, give_way: Callable[[], None], *, suspended: bool = False) -> None:
        """This child is idle. When others need the room, `give_way` is called, at once and
        synchronously; it must retire or kill the child. One that is `suspended` in the middle of
        a turn goes only when no other is left."""
        self._pace.released(child, trio.current_time())
        if not child.leave.is_set():  # else its place comes free without anybody's doing
            resting = self._suspended if suspended else self._idle
            resting[child] = give_way
            self._works()
            if child in self._outdated and not suspended:
                resting.pop(child)()
            self._make_way()

    def withdraw(self, child: Child) -> None:
        """This child is in use again, or going."""
        if (self._idle.pop(child, None) or self._suspended.pop(child, None)) is not None:
            self._pace.taken(child, trio.current_time())

    def freeze(self, child: Child) -> None:
        """Stop an idle child's clock until it is written to."""
        child.freeze()
        if child.frozen:
            self._bus.publish(ChildFrozen(child.pid))

    # -- room --------------------------------------------------------------------------------------

    def _take_warm(self) -> Child | None:
        """The oldest warm child (it is the readiest). Those left over are for anyone: whoever
        waits has made their own way (`_make_way`)."""
        while self._warm:
            child = self._warm.popleft()
            # The exit status is asked for: it is known a step before `leave` is set.
            if not child.leave.is_set() and child.returncode is None:
                self._adopted()
                return child
        return None

    def _adopted(self) -> None:
        self._failures = 0
        self._refill.set()
        self._make_way_for_warm()

    def _welcome(self, child: Child) -> None:
        """A warm child is there: for whoever waits and can use it, or to be kept.

        It passes over those at the head of the queue for whose room a child is leaving, and
        goes no further than the first for whom none is.
        """
        if child.leave.is_set():
            if not child.expected:  # nobody had it, and it is not in `_warm`
                self._warm_died(child)
            return
        if child in self._outdated:
            child.retire()
            return
        for waiter in islice(self._waiters, len(self._making_way) + 1):
            if waiter.takes_warm:
                self._waiters.remove(waiter)
                waiter.child = child
                waiter.served.set()
                self._adopted()
                return
        self._warm.append(child)
        self._make_way()

    async def _wait_for_room(self, *, takes_warm: bool) -> Child | None:
        """A warm child that came meanwhile, or None with one place counted as the caller's."""
        limit, queue = self._settings.max_concurrent_sessions, self._waiters
        if self._places < limit:
            self._places += 1
            return None
        # Who takes the room of a child that nobody uses does not wait for others to be done.
        resting = len(self._idle) + len(self._suspended)
        unused = len(self._warm) + resting + len(self._making_way)
        if len(queue) >= self._settings.max_waiting_turns + unused:
            message = f"All {limit} children are busy, and {len(queue)} turns wait already."
            raise self._full(message, len(queue) + 1)
        waiter = _Waiter(takes_warm)
        queue.append(waiter)
        self._make_way()
        patience = self._settings.queue_timeout_seconds
        try:
            with trio.move_on_after(patience):
                await waiter.served.wait()
        except BaseException:
            self._stand_back(waiter)
            raise
        if not waiter.served.is_set():
            position = queue.index(waiter) + 1
            self._stand_back(waiter)
            raise self._full(f"All {limit} children were busy for {patience:g} seconds.", position)
        return waiter.child

    def _stand_back(self, waiter: _Waiter) -> None:
        """This one waits no more; what they were given goes to others."""
        if not waiter.served.is_set():
            self._waiters.remove(waiter)
        elif waiter.child is not None:
            self._welcome(waiter.child)
        else:
            self._give_back()

    def _full(self, message: str, position: int) -> RateLimited:
        fallback = self._settings.queue_timeout_seconds
        wait = self._pace.expect(position, trio.current_time(), fallback)
        return RateLimited(message, retry_after=wait)

    def _give_back(self) -> None:
        """A place is free: whoever waits longest gets it. So nobody waits beside a free place."""
        self._places -= 1
        while self._waiters and self._places < self._settings.max_concurrent_sessions:
            self._places += 1
            self._waiters.popleft().served.set()
        self._refill.set()

    def _make_way(self) -> None:
        """For each one who waits, have one child go that nobody is using."""
        while len(self._waiters) > len(self._making_way):
            if self._warm:
                # Whoever waits cannot use it: they need a child that resumes.
                child = self._warm.pop()
                child.kill()
            elif resting := self._idle or self._suspended:
                child = next(iter(resting))
                resting.pop(child)()
            else:
                return
            self._making_way.add(child)
        self._make_way_for_warm()

    def _make_way_for_warm(self) -> None:
        """Have idle children go while they leave the pool dry, the least recently used first.

        Without this a house full of idle conversations could never warm a child again, and every
        new conversation would wait for a cold one. A quarter of the room at most is kept so, and
        the idle keep at least as many children as are warm.
        """
        reserve = min(self._settings.prewarm, self._settings.max_concurrent_sessions // 4)
        while True:
            free = self._settings.max_concurrent_sessions - self._places
            ready = len(self._warm) + self._warming + free + len(self._making_way)
            if ready >= reserve or len(self._idle) <= ready:
                return
            child = next(iter(self._idle))
            self._idle.pop(child)()
            self._making_way.add(child)

    # -- keeping -----------------------------------------------------------------------------------

    async def _spawn(self, origin: Origin | None) -> Child:
        """Start a child on a place that is already counted. Its keeper gives the place back."""
        if self._closing:
            self._give_back()
            raise _stopping()
        child: Child | None = None
        # Shielded, so that a caller that is cancelled cannot lose the child it was just given.
        with trio.move_on_after(SPAWN_SECONDS, shield=True):
            child = await self._nursery.start(self._keep, origin)
        if child is None:
            raise ChildDied("The CLI process could not be started in time.")
        return child

    async def _keep(self, origin: Origin | None, task_status: trio.TaskStatus[Child]) -> None:
        """Stay with one child from spawn to burial. A boundary: its fault ends this child only."""
        child: Child | None = None
        renewals = self._renewals
        try:
            async with self._open(origin) as child:
                self._admit(child, resumed=_resumes(origin))
                if renewals != self._renewals:
                    self._outdated.add(child)
                task_status.started(child)
                with trio.move_on_after(self._settings.freeze_after_seconds or math.inf):
                    await child.leave.wait()
                if child in self._warm:
                    self.freeze(child)
                await child.leave.wait()
                self._pace.released(child, trio.current_time())
        except GatewayError as error:
            self._fails(error, origin)
            raise  # it could not be started, and whoever asked for it hears why
        except Exception as fault:
            log.exception("the keeper of a child failed", pid=child and child.pid)
            if child is None:
                raise InternalError("The CLI process could not be started.") from fault
        finally:
            if child is not None:
                self._bury(child)
            self._give_back()

    def _admit(self, child: Child, *, resumed: bool) -> None:
        self._children.add(child)
        self._born[child] = trio.current_time()
        self._bus.publish(ChildSpawned(child.pid, resumed))
        if self._closing:
            child.kill()

    def _bury(self, child: Child) -> None:
        self._children.discard(child)
        self._making_way.discard(child)
        self._idle.pop(child, None)
        self._suspended.pop(child, None)
        if not child.expected:
            self._died(child)
        if child in self._warm:
            self._warm.remove(child)
            if not child.expected:
                self._warm_died(child)
        elif not child.expected and self._settings.prewarm == 0:
            self._warm_died(child)  # where none is warm, the others tell
        del self._born[child]
        self._outdated.discard(child)
        self._pace.forget(child)
        self._bus.publish(ChildExited(child.pid, child.returncode, child.expected))

    def _died(self, child: Child) -> None:
        code, last = child.returncode, child.stderr_tail
        self._once.warn(
            "a child died", f"{code} {last}", pid=child.pid, returncode=code, stderr=last
        )

    def _warm_died(self, child: Child) -> None:
        self._failures += 1
        if self._failures > 1:  # one may be an accident
            self._trouble = child.post_mortem()
            self._trouble_since = trio.current_time()

    def _fails(self, error: GatewayError, origin: Origin | None) -> None:
        """A child could not be started."""
        # A workspace or a transcript that cannot be used is the trouble of one conversation.
        if not isinstance(error, NotLoggedIn) and (
            origin is None or isinstance(error, CliUnusable)
        ):
            self._trouble, self._trouble_since = error, trio.current_time()
        self._once.warn(
            "no child could be started", f"{error.code} {error.message}", error=error.message
        )

    def _works(self) -> None:
        """A child has done a turn."""
        self._failures = 0
        self._trouble = None
        self._once.forget()

    async def keep_warm(self) -> None:
        """Keep `claude.prewarm` children ready, as far as the bound leaves room. Never ends."""
        while True:
            while not self._wants_warm():
                self._refill = trio.Event()
                await self._refill.wait()
                # Booting takes a core for half a second; whoever was just served goes first.
                if not self._failures:
                    await trio.sleep(REFILL_DELAY)
            if self._failures:
                first, most = REFILL_PAUSE
                await trio.sleep(min(most, first * 2 ** min(self._failures - 1, 10)))
                if not self._wants_warm():
                    continue
            try:
                await self._known()
            except GatewayError:
                self._failures += 1
                continue
            if not self._wants_warm():
                continue
            self._places += 1
            self._warming += 1
            try:
                child = await self._spawn(None)
            except GatewayError:
                self._failures += 1
                continue
            finally:
                self._warming -= 1
            self._welcome(child)

    def _wants_warm(self) -> bool:
        return (
            len(self._warm) < self._settings.prewarm
            and self._places < self._settings.max_concurrent_sessions
            and not self._closing
        )

    def close(self) -> None:
        """Start no more children."""
        self._closing = True

    def kill_all(self) -> None:
        """End every child at once, without the stop sequence, and start no more."""
        self.close()
        for child in self._children:
            child.kill()


def _resumes(origin: Origin | None) -> bool:
    history = origin.history if isinstance(origin, AgentOrigin) else origin
    return history is not None


def _stopping() -> Overloaded:
    return Overloaded("The gateway is stopping.", code="draining")


@asynccontextmanager
async def run_pool(
    open_one: OpenChild,
    settings: ClaudeSettings,
    bus: Bus,
    known: Callable[[], Awaitable[object]] = trio.lowlevel.checkpoint,
    taken: Callable[[Trace | None, str], None] | None = None,
) -> AsyncIterator[ChildPool]:
    """A pool of the children that `open_one` makes. Ends when the last of them is gone.

    `known` is waited for before a child is sought or started: it makes at least one checkpoint, and
    raises `GatewayError` where none may be. `taken` is told which conversation has a session from
    now on.
    """
    async with trio.open_nursery() as nursery:
        pool = ChildPool(open_one, settings, bus, nursery, known, taken)
        nursery.start_soon(pool.keep_warm)
        try:
            yield pool
        finally:
            pool.close()
            nursery.cancel_scope.cancel()


class TraceKeeper(Protocol):
    """What a pool needs of the part that removes a CLI session's files
    (`actors.conversations.cleanup`)."""

    async def begin(self, trace: Trace | None) -> None:
        """A child is about to write these files."""

    def adopt(self, trace: Trace | None, conversation_id: str) -> None:
        """The files are this conversation's from now on."""

    def end(self, trace: Trace | None) -> None:
        """The child that wrote the files has gone."""


@asynccontextmanager
async def open_pool(
    cli: Cli,
    settings: ClaudeSettings,
    bus: Bus,
    watch: CliWatch | None = None,
    traces: TraceKeeper | None = None,
) -> AsyncIterator[ChildPool]:
    """Run a pool while the block runs; after it no child is left, its own children included.

    `watch` asks for the login that the children get (None: it is a key). `traces` removes what
    they leave on the disk.
    """

    async def known() -> Login:
        if watch is not None:
            return await watch.known()
        await trio.lowlevel.checkpoint()
        return LEAN

    taken = None if traces is None else traces.adopt

    async with open_guardian() as guardian:

        @asynccontextmanager
        async def open_one(origin: Origin | None) -> AsyncIterator[Child]:
            command = await cli.prepare(origin, await known())
            if traces is None:
                async with open_child(command, guardian) as child:
                    yield child
                return
            try:
                await traces.begin(command.trace)
                async with open_child(command, guardian) as child:
                    yield child
            finally:
                traces.end(command.trace)

        async with (
            run_pool(open_one, settings, bus, known, taken) as pool,
            trio.open_nursery() as nursery,
        ):
            if watch is not None:
                nursery.start_soon(watch.listen, bus)
                nursery.start_soon(watch.run, partial(cli.ask_login, guardian), pool.renew)
            yield pool
            nursery.cancel_scope.cancel()
