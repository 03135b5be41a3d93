"""The child pool: owns every child process, keeps warm ones for adoption, bounds them all.

Knows: how many children live, which sessions wait for one, which children are idle, and what each
of these holds, as far as its `Resident` says. Refuses to know: what is written to a child (it is
emptied for another conversation in `actors.session.child`), and what a conversation is.

**Keepers.** Each child has a keeper: a task in the pool's nursery that opens it, waits for
`Child.leave` (set when the child is retired, killed or dead), closes it, and gives its place back.
A session only borrows the child. Example: a session crashes in the middle of a turn, so its nursery
cancels the task that reads the child. The process is not lost with that task: the session's
`finish` calls `Child.kill`, which sets `leave`, and the keeper, in another nursery, runs the stop
sequence and buries the child. Even a session that forgot the kill could not leave a process behind:
the pool's own end cancels the keepers, and each closes its child.

**Places.** `_places` counts children alive or on their way, warm ones included; it never exceeds
``claude.max_concurrent_sessions``. A place is taken in one step, before anything waits
(`_wait_for_room`, `keep_warm`), and given back in one step, by the keeper (`_give_back`).

**Which child serves a session** that has none (`_obtain`), the cheapest first; one decision in one
step. (1) An idle child that holds a beginning of what the session wants, and is cut back to that.
(2) A free child, which holds nothing and knows the system prompt. (3) An idle child that knows the
prompt, if no client is likely to come back to its conversation: it is emptied. (4) A warm child.
(5) A new one, on a free place. (6) An idle child that knows the prompt, whatever it is worth. Only
children of the same key are emptied or cut back (``claude.recycle``). Example: a client begins a
conversation each time, with one of three system prompts. The first three take warm children, each
of which learns the prompts asked for so far. Every further one finds an idle child, whose session
empties it within some milliseconds, and boots nothing. A new agent's conversation takes a spare,
if one suits (`actors.pool.spare_agents`), else a new child.

**A release** is asked of the child's session: `_ask_release` calls its ``give_way``, synchronously,
and the session that wants the child waits in `_releasing`, bound to that child. It ends in
`take_back`, with the child; or in `_bury`, where the child would not be released: then the waiter
comes to the head of the queue, where it gets that child's place.

**Which child must go** when a session needs one, no place is free, and no idle child can serve it
(`_make_way`): a free or a warm child or a spare that it cannot use, else the idle child used least
recently, else a child suspended in the middle of a turn. Never a busy one. Example: three places; A
is busy, B has been idle for a minute, C for an hour; D resumes an agent's conversation. D queues;
`_make_way` calls C's ``give_way``, synchronously; C's session retires its child, and C is in
`_making_way` until it is buried. A second waiter E makes B go. A third, F, finds no idle child, and
waits until A's turn ends and A's session offers its child. `len(_making_way)` is the number of
places that will come free: so one waiter makes one child go, however often `_make_way` runs.

**A waiter cannot be forgotten.** A waiter is in `_waiters` or has been served, and changes from one
to the other in one step. Every step that may serve one does so before it ends: a place that comes
free goes to the oldest waiter (`_give_back`), a new warm child or one that was released goes to the
first that can use it (`_welcome`, `_keep_free`), and a child that is offered serves a waiter or
makes way (`offer`). So no free place and no usable child ever exists beside a waiter, but for the
moments of a time slice. Example: D times out, or its client hangs up, in the very step in which it
is served. The wait ends, and `_stand_back` passes the place, or the warm child, on to E.

**Logins.** Where the settings name several, each child has one for its life, and `login` is part
of what a waiter wants: children are emptied, cut back and taken warm for conversations of their own
login alone. `_choose` decides on the login before anything else, once for each wait. Each login has
its own warm children, an equal share of them, and its own count of failed starts, so that a login
whose children cannot start keeps no other from being used. Example: A's week is used up. Its
conversations are given to B when their next turn begins; A's idle children go when room is needed.

**A time slice.** A program that works with tools sends its next turn within milliseconds. Were its
child given to a waiter in between, each of the two would have to have its whole history told again
and again. So a child whose session has its next turn `expected` soon stays with it for that long
although others wait (`_slices`), if the session has had it for less than `SLICE_SECONDS`. Example:
32 clients on 8 children, each with four turns to come. Without slices each turn costs an emptied
child and a told history; with them, one in several.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sized
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Protocol

import trio
from attrs import define, field, frozen

from ...schemas.claude.limits import LimitState
from ...schemas.claude.upstream import plain, says_no_login
from ...schemas.errors import (
    ChildDied,
    CliUnusable,
    GatewayError,
    InternalError,
    NotLoggedIn,
    RateLimited,
    draining,
)
from ...schemas.events import ChildAdopted, ChildExited, ChildFrozen, ChildSpawned, LimitsReported
from ...schemas.settings.logins import DEFAULT
from ...schemas.settings.settings import ClaudeSettings
from ...schemas.turn import AgentOrigin, AgentSpare, ChildSource, Origin, Recording
from ...transport.loggers import get_logger
from ...transport.process.child import Child, open_child
from ...transport.process.cli import Cli
from ...transport.process.guardian import open_guardian
from ...transport.process.leftovers import Trace
from ...transport.process.login import LEAN, Login
from ...transport.process.memory import resident_bytes
from ..runtime.bus import Bus
from ..runtime.once_log import OnceLog
from ..session.events import ChildReady, Resident, Wants
from ..session.messages import Lent
from ..session.replay import RECORDED_FROM
from .cli_watch import CliWatch
from .demand import Demand
from .logins import LoginBook
from .prompts import PromptUse
from .spare_agents import SpareAgents
from .wait_estimate import WaitEstimate

log = get_logger("ccapi.pool")

REFILL_PAUSE = 0.5, 30.0
"""Seconds before the next warm child when the last one died: at first, and at most."""

REFILL_DELAY = 0.25
"""Seconds between an adoption and the boot of the next warm child."""

SPARE_DELAY = 1.0
"""The same for an agent's spare: an agent's first turn takes longer to begin."""

SPARE_PAUSE_MOST = 300.0
"""Longest pause, in seconds, before the next spare when the last ones died."""

REFILL_PATIENCE = 5.0
"""Seconds that this boot waits for a moment in which no child works, as long as one is ready."""

ROOM_SECONDS = 5.0
"""How often, at most, idle children go to make room for warm ones."""

SLICE_SECONDS = 2.0
"""How long one session may keep a child in this way."""

SETTLED_SECONDS = 2.0
"""A warm child of this age has started; one that cannot start exits within half a second."""

TROUBLE_SECONDS = 30.0
"""How long a failed start counts as `trouble` where no child is kept warm, so that only a turn
would show that the CLI works again."""

SPAWN_SECONDS = 20.0
"""Bound on starting the process itself (not on its boot), usually a few milliseconds. A start that
hangs in the kernel outlasts it: to give that up would leave an unknown process."""

OpenChild = Callable[[Origin | None, str], AbstractAsyncContextManager[Child]]
"""Starts a child with this origin and login, and stops it at the end of the block (`open_pool`).

The block ends when `Child.leave` is set; `Child.gone` is set when the context has been left.
"""


@frozen
class SpareWishes:
    """How many agents' spares there shall be. `new_workspace` names the workspace that one is
    started in; None: it works where its conversation says. `claim` makes the workspace of that name
    the directory that a spare is claimed for, and returns it; raises `GatewayError`."""

    wanted: int = 0
    new_workspace: Callable[[], str] | None = None
    claim: Callable[[Child, str], Path] = lambda _, workspace: Path(workspace)


@frozen
class PoolStatistics:
    """Children by state, and sessions that wait for one. `limit` bounds `live`; `warm` counts
    agents' spares too."""

    limit: int
    live: int
    warm: int
    idle: int
    waiting: int


GiveWay = Callable[[int | None], None]
"""Asks a child's session to let it go: cut back to so many messages, for another; or for good."""


@frozen
class Resting:
    """A child between two turns: whose it is, what it holds, and how its session is asked for it
    (None: it has no session, and holds nothing). `valued`: a client is likely to come back."""

    child: Child
    owner: str
    state: Resident
    give_way: GiveWay | None = None
    valued: bool = False
    login: str = DEFAULT


@define(eq=False)
class _Waiter:
    """A session that waits for a child. `served`: it has `lent`, or else one counted place."""

    origin: Origin | None
    wants: Wants | None
    owner: str
    login: str
    served: trio.Event = field(factory=trio.Event)
    lent: Lent[Child] | None = None

    @property
    def takes_warm(self) -> bool:
        return self.origin is None


@define(eq=False)
class _Stock:
    """What the pool keeps ready of one login. `failures`: warm children that died since one was
    adopted; `trouble`: why no child can be started, if the last starts failed."""

    refill: trio.Event = field(factory=trio.Event)
    failures: int = 0
    renewals: int = 0
    trouble: GatewayError | None = None
    trouble_since: float = -math.inf


class ChildPool:
    """Made by `run_pool`. All decisions are synchronous; only `acquire` waits."""

    def __init__(
        self, open_one: OpenChild, settings: ClaudeSettings, bus: Bus, nursery: trio.Nursery,
        known: Callable[[str], Awaitable[object]],
        taken: Callable[[Trace | None, str], None] | None = None,
        spares: SpareWishes = SpareWishes(),
        book: LoginBook | None = None,
        is_usable: Callable[[str], bool] = lambda _: True,
    ) -> None:  # fmt: skip
        self._taken = taken
        self._open = open_one
        self._known = known
        self._book = LoginBook() if book is None else book
        self._book.changed = self._limits_changed
        self.has_rejections = False
        """Whether any login may be rejected: a turn that is not reads no more than this."""
        self._settings = settings
        self._bus = bus
        self._nursery = nursery
        self._places = 0  # children alive or on their way, warm ones included
        self._children: set[Child] = set()
        self._logins: dict[Child, str] = {}
        self._stocks = {name: _Stock() for name in self._book.names}
        self._first = self._book.names[0]
        self._is_several = len(self._stocks) > 1
        self._warm: deque[Child] = deque()  # of all logins
        self._seeking: Counter[str] = Counter()  # sessions that wait for a child, by login
        self._chosen_at: dict[str, int] = {}  # the number of the choice
        self._is_usable = is_usable
        self._idle: dict[Child, Resting] = {}  # least recently used first
        self._suspended: dict[Child, Resting] = {}  # they wait for tools' results
        self._free: dict[Child, Resting] = {}  # emptied, and no session's
        self._slices: dict[Child, Resting] = {}  # idle, and soon to go on
        self._lent_at: dict[Child, float] = {}
        self._made_room_at = -math.inf
        self._releasing: dict[Child, tuple[_Waiter | None, ChildSource]] = {}
        self._prompts = PromptUse(settings.palette if settings.recycle != "off" else 0)
        self._demand = Demand(settings.prewarm)
        self._calm = trio.Event()
        self._making_way: set[Child] = set()
        self._waiters: deque[_Waiter] = deque()
        self._claim = spares.claim
        # As for warm children, a quarter of the places at most.
        wanted = min(spares.wanted, settings.max_concurrent_sessions // 4)
        self._spares = SpareAgents(wanted, spares.new_workspace)
        self._refill_spares = trio.Event()
        self._spare_turn = 0
        self._warming = 0  # warm children on their way
        self._born: dict[Child, float] = {}
        self._owners: dict[Child, str] = {}
        self._outdated: set[Child] = set()  # not to be used for another turn
        self._once = OnceLog(log)
        self._estimate = WaitEstimate(settings.max_concurrent_sessions, settings.timeout_seconds)
        self._closing = False

    def __repr__(self) -> str:
        return f"<ChildPool {self.statistics()}>"

    def statistics(self) -> PoolStatistics:
        return PoolStatistics(
            limit=self._settings.max_concurrent_sessions,
            live=self._places,
            warm=len(self._warm) + len(self._spares),
            idle=len(self._idle) + len(self._free) + len(self._slices),
            waiting=len(self._waiters),
        )

    @property
    def trouble(self) -> GatewayError | None:
        """Why no child can be started, if the last starts failed, with every login. None again
        once one has started."""
        found = [self._trouble_with(login) for login in self._stocks]
        return None if None in found else found[0]

    def _trouble_with(self, login: str) -> GatewayError | None:
        now, stock = trio.current_time(), self._stocks[login]
        if any(now - self._born[child] >= SETTLED_SECONDS for child in self._warm_of(login)):
            return None
        kept = self._settings.prewarm > 0 or now - stock.trouble_since < TROUBLE_SECONDS
        if stock.trouble is None or not kept:
            return None
        message = f"The CLI cannot be started: {stock.trouble.message}"
        return CliUnusable(message, code=stock.trouble.code)

    def renew(self, login: str | None = None) -> None:
        """Use no present child (of this login's; None: of any) for another turn: idle and warm ones
        go at once, busy ones when their turn has ended. Turns that wait for tool results keep
        theirs."""
        for name, stock in self._stocks.items():
            if login in (None, name):
                stock.renewals += 1
                stock.failures = 0
                stock.refill.set()
        concerned = {child for child in self._children if login in (None, self._logins[child])}
        self._outdated |= concerned
        for child in tuple(self._warm):
            if child in concerned:
                self._warm.remove(child)
                child.retire()
        for child in self._spares.remove_all(concerned):
            child.retire()
        for child in tuple(self._free):
            if child in concerned:
                del self._free[child]
                child.retire()
        for child, resting in tuple(self._idle.items()):
            if child in concerned and self._idle.pop(child, None) is not None:
                _go(resting)
        self._spares.failures = 0
        self._refill_spares.set()

    def renew_login(self, login: str = DEFAULT) -> None:
        """The login has changed: use no present child of it for another turn, and forget its
        limits."""
        self.renew(login)
        self._book.forget(login)

    # -- for sessions ------------------------------------------------------------------------------

    async def acquire(
        self, conversation_id: str, origin: Origin | None, wants: Wants | None = None,
        owner: str = "", login: str = "", avoid: str = "",
    ) -> Lent[Child]:  # fmt: skip
        """A child for one conversation of the owner's: one that served another conversation, if
        `wants` says what it has to hold; a warm one, a new one, or one that resumes.

        `login` is the one that the conversation had, and gets again if that can be asked; `avoid`
        is one that has just refused the turn. `_choose` has the rest.

        Waits while no place is free, for `claude.queue_timeout_seconds` at most. Raises
        `RateLimited` when the queue is full or that time is over, `ChildDied`, `Overloaded` or
        `InternalError` when a child cannot be started, `Overloaded` (``draining``) when the pool
        is closing, and what `known` raises. `take_back`, `Child.retire` or `Child.kill` gives it
        back.
        """
        chosen = self._first
        if self._is_several:
            chosen = self._choose(_model_of(origin, wants), login, avoid, origin)
        self._seeking[chosen] += 1
        try:
            await self._known(chosen)  # first: after its checkpoint, a given child cannot be lost
            if self._closing:
                raise draining(retry_after=None)
            began, asker = trio.current_time(), owner
            if self._settings.recycle == "all":
                owner = ""
            if wants is not None:
                self._prompts.note(owner, wants.setup.system, began)
            lent = await self._obtain(_Waiter(origin, wants, owner, chosen))
        finally:
            self._seeking[chosen] -= 1
        child, now = lent.child, trio.current_time()
        if child in self._children:
            self._owners[child] = owner
            self._lent_at[child] = now
            self._estimate.taken(child, now)
            if self._taken is not None:
                self._taken(child.trace, conversation_id)
        warm = lent.ready.source != "new"
        self._bus.publish(
            ChildAdopted(child.pid, conversation_id, warm, now - began, chosen, asker)
        )
        return Lent(child, lent.ready, chosen)

    async def _obtain(self, waiter: _Waiter) -> Lent[Child]:
        """The module's docstring has the order. Nothing waits before the decision is made."""
        found = self._find_resting(waiter, valued=False)
        if found is not None:
            return await self._obtain_resting(waiter, *found)
        self._demand.note(trio.current_time())
        child = self._take_warm(waiter.login) if waiter.takes_warm else None
        if child is not None:
            return self._lend_warm(waiter, child)
        spare = self._lend_spare(waiter)
        if spare is not None:
            return spare
        if self._places < self._settings.max_concurrent_sessions:
            self._places += 1
            return await self._lend_new(waiter)
        found = self._find_resting(waiter, valued=True)
        if found is not None:
            return await self._obtain_resting(waiter, *found)
        self._queue_up(waiter)
        return await self._wait(waiter)

    async def _obtain_resting(self, waiter: _Waiter, resting: Resting, keep: int) -> Lent[Child]:
        if resting.give_way is None:
            return self._lend_free(resting)
        self._ask_release(waiter, resting, keep)
        return await self._wait(waiter)

    def _lend_free(self, resting: Resting) -> Lent[Child]:
        del self._free[resting.child]
        return Lent(resting.child, ChildReady(resting.state, source="recycled"))

    def _lend_warm(self, waiter: _Waiter, child: Child) -> Lent[Child]:
        palette = self._prompts.palette(waiter.owner)
        return Lent(child, ChildReady(palette=palette, source="prewarmed"))

    def _lend_spare(self, waiter: _Waiter) -> Lent[Child] | None:
        """For a new agent's conversation. Raises `ChildDied` where its workspace cannot be used."""
        child = self._spares.take(waiter.origin, waiter.login)
        if child is None:
            return None
        assert isinstance(waiter.origin, AgentOrigin)
        self._refill_spares.set()
        self._make_way_for_warm()
        try:
            place = self._claim(child, waiter.origin.workspace)
        except GatewayError:
            child.retire()
            raise
        return Lent(child, ChildReady(source="prewarmed", claim=str(place)))

    async def _lend_new(self, waiter: _Waiter) -> Lent[Child]:
        """On a counted place."""
        child = await self._spawn(waiter.origin, waiter.login)
        return Lent(child, ChildReady(palette=self._prompts.palette(waiter.owner)))

    def offer(
        self, child: Child, give_way: GiveWay, state: Resident, *,
        suspended: bool = False, valued: bool = False, expected: float = 0.0,
    ) -> None:  # fmt: skip
        """This child is idle, and `state` says what it holds. When another session needs it, or its
        place, the pool calls `give_way`, synchronously and maybe at once: the session has to cut
        the child back to so many messages and give it back (`take_back`), or to retire or kill it.
        A child that is `suspended` in the middle of a turn goes only when no other is idle;
        `valued` ones go after the others. Within `expected` seconds its session's next turn is
        likely to come."""
        now = trio.current_time()
        self._estimate.released(child, now)
        if not child.leave.is_set():  # else it is on its way out already
            owner = self._owners.get(child, "")
            login = self._logins.get(child, DEFAULT)
            resting = Resting(child, owner, state, give_way, valued, login)
            self._worked(login)
            group = self._suspended if suspended else self._idle
            if expected and self._may_go_on(child, now):
                self._slices[child] = resting
                self._nursery.start_soon(self._end_slice, resting, group, expected)
                return
            group[child] = resting
            if child in self._outdated and not suspended:
                del self._idle[child]
                _go(resting)
            self._make_way()
            self._look_for_calm()

    def _may_go_on(self, child: Child, now: float) -> bool:
        """Whether it may wait for its session's next turn although other sessions wait."""
        has_time = now - self._lent_at.get(child, -math.inf) < SLICE_SECONDS
        waits = len(self._waiters) > len(self._making_way)
        return waits and has_time and child not in self._outdated

    async def _end_slice(
        self, resting: Resting, group: dict[Child, Resting], expected: float
    ) -> None:
        """When the turn that was expected has not come, others may have the child."""
        await trio.sleep(expected)
        child = resting.child
        if self._slices.get(child) is resting:
            del self._slices[child]
            group[child] = resting
            if child in self._outdated and group is self._idle:
                del self._idle[child]
                _go(resting)
            self._make_way()
            self._look_for_calm()

    def take_back(self, child: Child, state: Resident) -> None:
        """The child's session has released it: for the session that waits for it, for any other
        that can use it, or to be kept."""
        waiter, source = self._releasing.pop(child, (None, "recycled"))
        if child.leave.is_set() or self._is_worn(child, state):
            self._estimate.released(child, trio.current_time())
            child.retire()
            if waiter is not None:
                self._requeue(waiter, child)
        elif waiter is not None:
            self._serve(waiter, Lent(child, ChildReady(state, source=source)))
        else:
            self._keep_free(child, state)

    def _is_worn(self, child: Child, state: Resident) -> bool:
        """Whether it should serve no further conversation."""
        limit = self._settings.max_child_bytes
        return (
            self._closing
            or child in self._outdated
            or self._settings.recycle == "off"
            or state.served >= self._settings.recycle_limit
            or 0 < limit < resident_bytes(child.pid)
        )

    def _requeue(self, waiter: _Waiter, child: Child) -> None:
        """The child that was to be released for this waiter goes: the waiter gets its place."""
        self._waiters.appendleft(waiter)
        self._making_way.add(child)

    def _keep_free(self, child: Child, state: Resident) -> None:
        """No session waits for this released child: another one may."""
        self._estimate.released(child, trio.current_time())
        if not state.is_empty:  # it was cut back for a session that has stopped waiting
            child.retire()
            return
        owner, login = self._owners.get(child, ""), self._logins.get(child, DEFAULT)
        resting = Resting(child, owner, state, login=login)
        for waiter in islice(self._waiters, len(self._making_way) + 1):
            if self._can_serve(resting, waiter):
                self._waiters.remove(waiter)
                self._serve(waiter, Lent(child, ChildReady(state, source="recycled")))
                return
        self._free[child] = resting
        self._nursery.start_soon(self._let_age, resting)
        self._make_way()
        self._look_for_calm()

    async def _let_age(self, resting: Resting) -> None:
        """Freeze a free child, and retire it later, unless it is used meanwhile."""
        child, settings = resting.child, self._settings
        freeze = settings.freeze_after_seconds or math.inf
        hibernate = settings.hibernate_after_seconds or math.inf
        with trio.move_on_after(min(freeze, hibernate)):
            await child.leave.wait()
        if self._free.get(child) is resting and freeze < hibernate:
            self.freeze(child)
            with trio.move_on_after(hibernate - freeze):
                await child.leave.wait()
        if self._free.get(child) is resting:
            del self._free[child]
            child.retire()

    def _serve(self, waiter: _Waiter, lent: Lent[Child]) -> None:
        waiter.lent = lent
        waiter.served.set()

    # -- children that served another conversation -------------------------------------------------

    def _find_resting(self, waiter: _Waiter, *, valued: bool) -> tuple[Resting, int] | None:
        """A child that can serve this waiter, and how many of its messages are to be left. Without
        `valued`, a child goes for it only if its conversation does not need it, or has half of what
        the waiter wants in common with it."""
        wants = waiter.wants
        if wants is None or self._settings.recycle == "off":
            return None
        best: Resting | None = None
        kept = 0
        for resting in self._idle.values():
            keep = self._prefix(resting, waiter)
            worth = valued or not resting.valued or 2 * keep >= len(wants.digests)
            if keep > kept and worth:
                best, kept = resting, keep
        if best is not None:
            return best, kept
        for resting in self._free.values():
            if self._can_serve(resting, waiter):
                return resting, 0
        groups = (self._idle, self._suspended) if valued else (self._idle,)
        for resting in (each for group in groups for each in group.values()):
            if (valued or not resting.valued) and self._can_serve(resting, waiter):
                return resting, 0
        return None

    def _can_serve(self, resting: Resting, waiter: _Waiter) -> bool:
        """Whether the child can serve this waiter once it is emptied."""
        wants, state = waiter.wants, resting.state
        if wants is None or waiter.origin is not None or not _is_alike(resting, waiter):
            return False
        usable = state.is_empty if resting.give_way is None else state.can_be_released
        going = resting.child.leave.is_set() or resting.child in self._outdated
        return usable and not going and state.knows(wants.setup)

    def _prefix(self, resting: Resting, waiter: _Waiter) -> int:
        """How many messages of what the waiter wants the child can be left with. Of a history that
        is too long to be replayed, the rest must not be."""
        wants = waiter.wants
        if wants is None or not _is_alike(resting, waiter) or resting.child in self._outdated:
            return 0
        keep = resting.state.cut_for(wants.setup, wants.digests, wants.exact)
        if waiter.origin is not None and len(wants.digests) - keep > RECORDED_FROM:
            return 0
        return keep

    def _ask_release(self, waiter: _Waiter, resting: Resting, keep: int) -> None:
        """Have a session give up its child for this waiter. That ends in `take_back`, or in
        `_bury`."""
        child, give_way = resting.child, resting.give_way
        assert give_way is not None
        self._idle.pop(child, None)
        self._suspended.pop(child, None)
        self._releasing[child] = waiter, "prefix" if keep else "recycled"
        give_way(keep)

    def withdraw(self, child: Child) -> None:
        """This child is in use again, or going."""
        groups = (self._idle, self._suspended, self._slices)
        if any(group.pop(child, None) is not None for group in groups):
            self._estimate.taken(child, trio.current_time())

    def freeze(self, child: Child) -> None:
        """Stop an idle child's process until something is written to it."""
        child.freeze()
        if child.frozen:
            self._bus.publish(ChildFrozen(child.pid))

    # -- limits of the login -----------------------------------------------------------------------

    def refusal(self, model: str, login: str = "") -> GatewayError | None:
        """Why the API would refuse a turn with this model now, where that is known, of a
        conversation that has this login (empty: none yet)."""
        if login in self._stocks:
            return self._book.refusal(login, model)
        return self._book.first_refusal(model)

    def has_other(self, model: str, login: str) -> bool:
        """Whether another login than this one could be asked for this model now, as far as is
        known."""
        return any(each != login and self._can_ask(each, model) for each in self._stocks)

    def is_limited(self, login: str = DEFAULT) -> bool:
        """Whether the API is known to answer no turn of this login's now."""
        return self._book.is_rejected(login)

    def _can_ask(self, login: str, model: str) -> bool:
        if not self._is_usable(login) or self._trouble_with(login) is not None:
            return False
        return not self._book.is_rejected(login, model)

    def _choose(self, model: str, login: str, avoid: str, origin: Origin | None) -> str:
        """The login for one conversation. The one that it had stays, as long as that can be asked;
        else it is the least used one: by its windows, then by its children at work, then the one
        that was chosen the longest ago. One of which a spare is ready goes first among equals.

        Where none can be asked: the one it had, or the first, so that the turn ends with what is
        wrong there. Raises `QuotaExhausted` where the limits of all are used up.
        """
        if login in self._stocks and login != avoid and self._can_ask(login, model):
            return login
        found = [name for name in self._stocks if name != avoid and self._can_ask(name, model)]
        if not found:
            refused = self._book.first_refusal(model)
            if refused is not None:
                raise refused
            return login if login in self._stocks else self._first
        spare = self._spares.login_for(origin)
        working = self._working_by_login()

        def rank(name: str) -> tuple[int, bool, int, int]:
            last = self._chosen_at.get(name, 0)
            return self._book.use_of(name), name != spare, working[name], last

        chosen = min(found, key=rank)
        self._chosen_at[chosen] = 1 + max(self._chosen_at.values(), default=0)
        return chosen

    def _working_by_login(self) -> Counter[str]:
        """How many children of each login work on a turn, and sessions wait for one."""
        working = Counter(self._seeking)
        resting = (self._idle, self._free, self._slices, self._warm, self._spares)
        for child in self._children:
            if not any(child in group for group in resting):
                working[self._logins[child]] += 1
        return working

    def _limits_changed(self, login: str) -> None:
        self.has_rejections = self._book.has_rejections
        self._bus.publish(LimitsReported(login, self._book.is_rejected(login)))

    def note_limit(self, child: Child, state: LimitState, model: str) -> None:
        """The child reports how its login's limits stand, in a turn with this model."""
        if child not in self._outdated:  # else it has an earlier login
            self._book.note(self._logins.get(child, DEFAULT), state, model)

    # -- room --------------------------------------------------------------------------------------

    def _take_warm(self, login: str) -> Child | None:
        """The oldest warm child of this login, which has booted the furthest. A warm child that no
        waiter got is free for this caller: for each waiter another child goes (`_make_way`)."""
        for child in self._warm_of(login):
            self._warm.remove(child)
            # The exit status is known a step before `leave` is set.
            if not child.leave.is_set() and child.returncode is None:
                self._adopted(login)
                return child
        return None

    def _warm_of(self, login: str) -> list[Child]:
        return [child for child in self._warm if self._logins[child] == login]

    def _adopted(self, login: str) -> None:
        self._stocks[login].failures = 0
        self._stocks[login].refill.set()
        self._calm.set()  # if it was the last one, the next is wanted at once
        self._make_way_for_warm()

    def _welcome(self, child: Child) -> None:
        """A warm child is ready: for the first waiter that can use it, or to be kept.

        It may pass over waiters at the head of the queue that need a child of another origin, but
        only as many as there are children on their way out for them, and one more.
        """
        if child.leave.is_set():
            if not child.expected:  # no session had it, and it is not in `_warm`
                self._warm_died(child)
            return
        if child in self._outdated:
            child.retire()
            return
        login = self._logins[child]
        for waiter in islice(self._waiters, len(self._making_way) + 1):
            if waiter.takes_warm and waiter.login == login:
                self._waiters.remove(waiter)
                self._serve(waiter, self._lend_warm(waiter, child))
                self._adopted(login)
                return
        self._warm.append(child)
        self._make_way()

    def _queue_up(self, waiter: _Waiter) -> None:
        """No place is free, and no child can serve the waiter. Raises `RateLimited`."""
        limit, queue = self._settings.max_concurrent_sessions, self._waiters
        # A waiter that gets the place of an unused child does not count as queued for a busy one.
        resting = len(self._idle) + len(self._suspended) + len(self._free) + len(self._slices)
        unused = len(self._warm) + len(self._spares) + resting + len(self._making_way)
        if len(queue) >= self._settings.max_waiting_turns + unused:
            message = f"All {limit} children are busy, and {len(queue)} turns are queued."
            raise self._full(message, len(queue) + 1)
        queue.append(waiter)
        self._make_way()

    async def _wait(self, waiter: _Waiter) -> Lent[Child]:
        """Until the waiter is served. Raises `RateLimited` when that takes too long."""
        limit, patience = (
            self._settings.max_concurrent_sessions,
            self._settings.queue_timeout_seconds,
        )
        try:
            with trio.move_on_after(patience):
                await waiter.served.wait()
        except BaseException:
            self._stand_back(waiter)
            raise
        if not waiter.served.is_set():
            position = self._waiters.index(waiter) + 1 if waiter in self._waiters else 1
            self._stand_back(waiter)
            raise self._full(f"All {limit} children were busy for {patience:g} seconds.", position)
        if waiter.lent is not None:
            return waiter.lent
        return await self._lend_new(waiter)

    def _stand_back(self, waiter: _Waiter) -> None:
        """This waiter has stopped waiting: what it was given goes to the next."""
        if waiter in self._waiters:
            self._waiters.remove(waiter)
        elif not waiter.served.is_set():
            child = next(c for c, (bound, _) in self._releasing.items() if bound is waiter)
            self._releasing[child] = None, "recycled"
        elif waiter.lent is None:
            self._give_back()
        elif waiter.lent.ready.state is None:
            self._welcome(waiter.lent.child)
        else:
            self._keep_free(waiter.lent.child, waiter.lent.ready.state)

    def _full(self, message: str, position: int) -> RateLimited:
        fallback = self._settings.queue_timeout_seconds
        wait = self._estimate.expect(position, trio.current_time(), fallback)
        return RateLimited(message, retry_after=wait)

    def _give_back(self) -> None:
        """A place is free: the oldest waiter gets it, so that none waits beside a free place."""
        self._places -= 1
        while self._waiters and self._places < self._settings.max_concurrent_sessions:
            self._places += 1
            self._waiters.popleft().served.set()
        for stock in self._stocks.values():
            stock.refill.set()
        self._refill_spares.set()

    def _make_way(self) -> None:
        """For each waiter, have one unused child released, or go."""
        while len(self._waiters) > len(self._making_way):
            waiter = self._waiters[len(self._making_way)]  # the first for which none goes yet
            found = self._find_resting(waiter, valued=True)
            if found is not None:
                self._waiters.remove(waiter)
                resting, keep = found
                if resting.give_way is None:
                    self._serve(waiter, self._lend_free(resting))
                else:
                    self._ask_release(waiter, resting, keep)
                continue
            if self._free:
                child = next(iter(self._free))
                del self._free[child]
                child.retire()
            elif self._warm:
                # The waiters cannot use it: they need a child that resumes.
                child = self._warm.pop()
                child.kill()
            elif (spare := self._spares.remove_any()) is not None:
                child = spare
                child.kill()
            elif group := self._idle or self._suspended:
                child = next(iter(group))
                _go(group.pop(child))
            else:
                return
            self._making_way.add(child)
        self._make_way_for_warm()

    def _make_way_for_warm(self) -> None:
        """Have idle children go while they leave no place for warm ones and spares, the least
        recently used first.

        Without this a gateway full of idle conversations could never warm a child again, and every
        new conversation would wait for a cold start. At most a quarter of the places is reserved
        for either kind, and idle children keep at least as many places as are ready. Children that
        serve another conversation once they are emptied are as good as warm ones, so they count.
        Example: 8 clients that begin one conversation after the other, on 10 places. Were the idle
        child of one of them to make room for a warm one, the client's next conversation would take
        that, and the next idle child would have to go: a boot for each conversation. Where several
        keys share the places, one of them may be short of children again and again: so where idle
        children could be emptied, room is made once in `ROOM_SECONDS`.
        """
        now = trio.current_time()
        if now - self._made_room_at < ROOM_SECONDS and self._is_emptied_any():
            return
        ready = self._share(self._settings.prewarm) * len(self._stocks)
        reserve = min(ready, self._settings.max_concurrent_sessions // 4)
        reserve += self._spares.wanted
        while True:
            free = self._settings.max_concurrent_sessions - self._places
            spares = len(self._spares) + self._spares.coming
            ready = len(self._warm) + self._warming + spares + free + len(self._making_way)
            if ready + self._soon_emptied() >= reserve or len(self._idle) <= ready:
                return
            child = next(iter(self._idle))
            _go(self._idle.pop(child))
            self._making_way.add(child)
            self._made_room_at = now

    def _is_emptied_any(self) -> bool:
        """Whether any idle child could serve another conversation."""
        recycles = self._settings.recycle != "off"
        return recycles and any(each.state.can_be_released for each in self._idle.values())

    def _soon_emptied(self) -> int:
        """How many children serve another conversation of their key at once, of the key that has
        the fewest of them."""
        if self._settings.recycle == "off":
            return 0
        found = {(owner, self._logins[child]): 0 for child, owner in self._owners.items()}
        for resting in (*self._idle.values(), *self._free.values()):
            usable = resting.give_way is None or resting.state.can_be_released
            if usable and not resting.valued and (resting.owner, resting.login) in found:
                found[resting.owner, resting.login] += 1
        return min(found.values(), default=0)

    # -- keeping -----------------------------------------------------------------------------------

    async def _spawn(self, origin: Origin | None, login: str) -> Child:
        """Start a child on a counted place, which its keeper gives back."""
        if self._closing:
            self._give_back()
            raise draining(retry_after=None)
        child: Child | None = None
        # Shielded, so that a cancelled caller cannot lose the child that it was just given.
        with trio.move_on_after(SPAWN_SECONDS, shield=True):
            child = await self._nursery.start(self._keep, origin, login)
        if child is None:
            raise ChildDied("The CLI process could not be started in time.")
        return child

    async def _keep(
        self, origin: Origin | None, login: str, task_status: trio.TaskStatus[Child]
    ) -> None:
        """Stay with one child from start to end. A boundary: an exception ends this child only."""
        child: Child | None = None
        stock = self._stocks[login]
        renewals = stock.renewals
        try:
            async with self._open(origin, login) as child:
                self._admit(child, login, resumed=_resumes(origin))
                if isinstance(origin, AgentSpare):
                    self._spares.add(child, origin, login)
                if renewals != stock.renewals:
                    self._outdated.add(child)
                task_status.started(child)
                with trio.move_on_after(self._settings.freeze_after_seconds or math.inf):
                    await child.leave.wait()
                if child in self._warm or child in self._spares:
                    self.freeze(child)
                await child.leave.wait()
                self._estimate.released(child, trio.current_time())
        except GatewayError as error:
            self._start_failed(error, origin, stock)
            raise  # it could not be started: `_spawn` raises the reason
        except Exception as fault:
            log.exception("the keeper of a child failed", pid=child and child.pid)
            if child is None:
                raise InternalError("The CLI process could not be started.") from fault
        finally:
            if child is not None:
                self._bury(child)
            self._give_back()

    def _admit(self, child: Child, login: str, *, resumed: bool) -> None:
        self._children.add(child)
        self._logins[child] = login
        self._born[child] = trio.current_time()
        self._bus.publish(ChildSpawned(child.pid, resumed))
        if self._closing:
            child.kill()

    def _bury(self, child: Child) -> None:
        self._children.discard(child)
        self._making_way.discard(child)
        self._idle.pop(child, None)
        self._suspended.pop(child, None)
        self._free.pop(child, None)
        waiter, _ = self._releasing.pop(child, (None, ""))
        if waiter is not None:  # it was not released: the waiter gets its place, in this step
            self._waiters.appendleft(waiter)
        if not child.expected:
            self._died(child)
        if self._spares.remove(child):
            self._spares.failures += not child.expected
            self._refill_spares.set()
        elif child in self._warm:
            self._warm.remove(child)
            if not child.expected:
                self._warm_died(child)
        elif not child.expected and self._settings.prewarm == 0:
            self._warm_died(child)  # without warm children, the others show that starts fail
        del self._born[child]
        self._owners.pop(child, None)
        self._lent_at.pop(child, None)
        self._outdated.discard(child)
        del self._logins[child]
        self._estimate.forget(child)
        self._bus.publish(ChildExited(child.pid, child.returncode, child.expected))

    def _died(self, child: Child) -> None:
        code, last = child.returncode, child.stderr_tail
        cure = {"cure": "ccapi login"} if says_no_login(last) else {}
        self._once.warn(
            "a child died", f"{code} {last}", pid=child.pid, returncode=code,
            stderr=plain(last), **cure,
        )  # fmt: skip

    def _warm_died(self, child: Child) -> None:
        stock = self._stocks[self._logins[child]]
        stock.failures += 1
        if stock.failures > 1:  # one may be an accident
            stock.trouble = child.post_mortem()
            stock.trouble_since = trio.current_time()

    def _start_failed(self, error: GatewayError, origin: Origin | None, stock: _Stock) -> None:
        """A child could not be started."""
        # An unusable workspace or transcript concerns one conversation only.
        if not isinstance(error, NotLoggedIn) and (
            origin is None or isinstance(error, CliUnusable)
        ):
            stock.trouble, stock.trouble_since = error, trio.current_time()
        self._once.warn(
            "no child could be started", f"{error.code} {error.message}", error=error.message
        )

    def _worked(self, login: str) -> None:
        """A child of this login has finished a turn."""
        stock = self._stocks[login]
        stock.failures = 0
        stock.trouble = None
        self._once.forget()

    @property
    def logins(self) -> tuple[str, ...]:
        return tuple(self._stocks)

    async def keep_warm(self, login: str) -> None:
        """Keep this login's share of `claude.prewarm` children ready, as far as the bound leaves
        room. Never ends."""
        stock = self._stocks[login]
        while True:
            while not self._wants_warm(login):
                stock.refill = trio.Event()
                await stock.refill.wait()
                # Booting takes a core for half a second: the session just served goes first.
                if not stock.failures:
                    await trio.sleep(REFILL_DELAY)
                    await self._wait_for_calm()
            if stock.failures:
                first, most = REFILL_PAUSE
                await trio.sleep(min(most, first * 2 ** min(stock.failures - 1, 10)))
                if not self._wants_warm(login):
                    continue
            try:
                await self._known(login)
            except GatewayError:
                stock.failures += 1
                continue
            if not self._wants_warm(login):
                continue
            self._places += 1
            self._warming += 1
            try:
                child = await self._spawn(None, login)
            except GatewayError:
                stock.failures += 1
                continue
            finally:
                self._warming -= 1
            self._welcome(child)

    async def _wait_for_calm(self, ready: Sized | None = None) -> None:
        """Until no child works, or none is `ready` (None: of the warm ones) any more: booting one
        takes a core for half a second, while clients wait for it."""
        ready = self._warm if ready is None else ready
        with trio.move_on_after(REFILL_PATIENCE):
            while len(ready) and self._working:
                self._calm = trio.Event()
                await self._calm.wait()

    @property
    def _working(self) -> int:
        """How many children work on a turn, about."""
        resting = len(self._idle) + len(self._free) + len(self._slices)
        unused = len(self._warm) + self._warming + resting
        unused += len(self._spares) + self._spares.coming
        return self._places - unused - len(self._suspended) - len(self._making_way)

    def _look_for_calm(self) -> None:
        if self._working <= 0:
            self._calm.set()

    def _wants_warm(self, login: str) -> bool:
        limit = self._settings.max_concurrent_sessions
        wanted = self._demand.target(trio.current_time(), max(self._settings.prewarm, limit // 4))
        return (
            len(self._warm_of(login)) < self._share(wanted)
            and self._places < self._settings.max_concurrent_sessions
            and not self._closing
        )

    def _share(self, wanted: int) -> int:
        """How many of `wanted` children each login has, rounded up, so that none is without."""
        return -(-wanted // len(self._stocks))

    async def keep_spares(self) -> None:
        """Keep as many agents' spares as there shall be, as far as the bound leaves room, and end
        those that no conversation came for. Never ends."""
        spares = self._spares
        while True:
            while not self._wants_spare():
                self._refill_spares = trio.Event()
                with trio.CancelScope(deadline=spares.next_end):
                    await self._refill_spares.wait()
                for child in spares.remove_overdue(trio.current_time()):
                    child.retire()
            pause = SPARE_DELAY
            if spares.failures:
                pause = REFILL_PAUSE[0] * 2 ** min(spares.failures, 10)
            await trio.sleep(min(pause, SPARE_PAUSE_MOST))
            await self._wait_for_calm(spares)
            try:
                login = self._spare_login()
                await self._known(login)
            except GatewayError:
                spares.failures += 1
                continue
            if self._wants_spare():
                await self._start_spare(login)

    def _spare_login(self) -> str:
        """Of which login the next spare is: the next one after that of the last that can be
        asked."""
        names = list(self._stocks)
        turned = names[self._spare_turn % len(names) :] + names[: self._spare_turn % len(names)]
        found = next((name for name in turned if self._can_ask(name, "")), turned[0])
        self._spare_turn = names.index(found) + 1
        return found

    async def _start_spare(self, login: str) -> None:
        self._places += 1
        self._spares.coming += 1
        origin = self._spares.make_origin()
        try:
            child = await self._spawn(origin, login)
        except GatewayError:
            self._spares.failures += 1
            return
        finally:
            self._spares.coming -= 1
        if child in self._outdated:
            self._spares.remove(child)
            child.retire()
        else:
            self._make_way()  # a client may have begun to wait

    def _wants_spare(self) -> bool:
        limit = self._settings.max_concurrent_sessions
        free = self._places < limit and not self._waiters
        return self._spares.lacks and free and not self._closing

    def reserve_agent(self) -> str:
        """The name for a new agent's conversation that works in a workspace of its own, so that its
        first turn gets a child that is ready; empty: any name will do."""
        name = self._spares.reserve(trio.current_time())
        if name:
            self._refill_spares.set()  # the promise has an end
        return name

    def close(self) -> None:
        """Start no more children."""
        self._closing = True

    def kill_all(self) -> None:
        """End every child at once, without the stop sequence, and start no more."""
        self.close()
        for child in self._children:
            child.kill()


def _is_alike(resting: Resting, waiter: _Waiter) -> bool:
    """Whether the child is of the same key's and the same login's."""
    return resting.owner == waiter.owner and resting.login == waiter.login


def _model_of(origin: Origin | None, wants: Wants | None) -> str:
    if wants is not None:
        return wants.setup.model
    return origin.model if isinstance(origin, AgentOrigin | Recording) else ""


def _go(resting: Resting) -> None:
    """Have the child's session let it go for good."""
    assert resting.give_way is not None
    resting.give_way(None)


def _resumes(origin: Origin | None) -> bool:
    if isinstance(origin, AgentSpare):
        return False
    history = origin.history if isinstance(origin, AgentOrigin) else origin
    return history is not None


async def _checkpoint(_: str) -> None:
    await trio.lowlevel.checkpoint()


@asynccontextmanager
async def run_pool(
    open_one: OpenChild,
    settings: ClaudeSettings,
    bus: Bus,
    known: Callable[[str], Awaitable[object]] = _checkpoint,
    taken: Callable[[Trace | None, str], None] | None = None,
    spares: SpareWishes = SpareWishes(),
    book: LoginBook | None = None,
    is_usable: Callable[[str], bool] = lambda _: True,
) -> AsyncIterator[ChildPool]:
    """A pool of the children that `open_one` makes. Ends when the last of them is gone.

    The pool awaits `known` before it gives or starts a child of a login: it makes at least one
    checkpoint, and raises `GatewayError` where no child may be used. The pool calls `taken` with
    the conversation that gets a child. `spares`: which agents' children it keeps ready. `book`:
    where it keeps how the logins' limits stand; it names them. `is_usable`: whether a login can be
    asked at all.
    """
    async with trio.open_nursery() as nursery:
        pool = ChildPool(open_one, settings, bus, nursery, known, taken, spares, book, is_usable)
        for login in pool.logins:
            nursery.start_soon(pool.keep_warm, login)
        nursery.start_soon(pool.keep_spares)
        try:
            yield pool
        finally:
            pool.close()
            nursery.cancel_scope.cancel()


class TraceKeeper(Protocol):
    """What a pool needs of the part that removes a CLI session's files
    (`actors.conversations.cleanup`)."""

    async def begin(self, trace: Trace | None, spare: str = "") -> None:
        """A child is about to write these files. `spare`: it is a spare, in this new workspace."""

    def move(self, trace: Trace, other: Trace) -> None:
        """The child that was to write the former writes the latter."""

    def adopt(self, trace: Trace | None, conversation_id: str) -> None:
        """The files are this conversation's from now on."""

    def end(self, trace: Trace | None, spare: str = "") -> None:
        """The child that wrote the files has gone."""


@asynccontextmanager
async def open_pool(
    cli: Cli,
    settings: ClaudeSettings,
    bus: Bus,
    watch: CliWatch | None = None,
    traces: TraceKeeper | None = None,
    new_workspace: Callable[[], str] | None = None,
    book: LoginBook | None = None,
    logins: Mapping[str, tuple[Cli, CliWatch]] | None = None,
) -> AsyncIterator[ChildPool]:
    """Run a pool while the block runs; after it no child process is left, nor any of its own.

    `watch` asks for the login that the children get (None: it is a key). `traces` removes what
    they leave on the disk. `new_workspace` names a new agent's conversation, and so its workspace
    (None: clients can ask for no agents). `book`: as for `run_pool`. `logins`: the CLI with each
    login, and what asks for it, in place of `cli` and `watch` alone; by the names in `book`.
    """
    clis = {name: each for name, (each, _) in (logins or {}).items()} or {DEFAULT: cli}
    watches = {name: each for name, (_, each) in (logins or {}).items()}
    if watch is not None and not logins:
        watches = {DEFAULT: watch}

    async def known(login: str) -> Login:
        if login in watches:
            return await watches[login].known()
        await trio.lowlevel.checkpoint()
        return LEAN

    def is_usable(login: str) -> bool:
        each = watches.get(login)
        return each is None or each.login is None or each.trouble is None

    taken = None if traces is None else traces.adopt

    def claim(child: Child, workspace: str) -> Path:
        place = cli.workspace(workspace).resolve()
        if child.trace is not None and not cli.binds_workspaces:
            other = cli.moved(child.trace, place)
            if traces is not None:
                traces.move(child.trace, other)
            child.trace = other
        return place

    wanted = 0 if new_workspace is None else settings.prewarm_agents
    spares = SpareWishes(wanted, new_workspace if cli.binds_workspaces else None, claim)

    async with open_guardian() as guardian:

        @asynccontextmanager
        async def open_one(origin: Origin | None, login: str) -> AsyncIterator[Child]:
            command = await clis[login].prepare(origin, await known(login))
            if traces is None:
                async with open_child(command, guardian) as child:
                    yield child
                return
            trace = command.trace
            spare = origin.workspace if isinstance(origin, AgentSpare) else ""
            try:
                await traces.begin(trace, spare)
                async with open_child(command, guardian) as child:
                    try:
                        yield child
                    finally:
                        trace = child.trace  # a spare may have moved
            finally:
                traces.end(trace, spare)

        async with (
            run_pool(open_one, settings, bus, known, taken, spares, book, is_usable) as pool,
            trio.open_nursery() as nursery,
        ):
            for name, each in watches.items():
                nursery.start_soon(each.listen, bus)
                nursery.start_soon(
                    each.run,
                    partial(clis[name].ask_login, guardian),
                    partial(pool.renew_login, name),
                    partial(clis[name].ask_version, guardian),
                    partial(pool.is_limited, name),
                )
            yield pool
            nursery.cancel_scope.cancel()
