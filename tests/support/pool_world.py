"""A pool whose children are made by hand: no process, so that the clock may jump.

Knows what the pool needs of a child, and counts every child from the first step of its making to
its last. The bound on their number is asserted when the world closes. Refuses to know what the
pool should decide.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from itertools import takewhile
from typing import Any

import trio
from attrs import define
from trio.testing import wait_all_tasks_blocked

from ccapi.actors.pool.logins import LoginBook
from ccapi.actors.pool.pool import ChildPool, SpareWishes, run_pool
from ccapi.actors.runtime.bus import Bus, Subscription
from ccapi.actors.session.events import Wants
from ccapi.actors.session.messages import Lent
from ccapi.schemas.claude.limits import LimitState, LimitWindow
from ccapi.schemas.claude.lines import Line
from ccapi.schemas.errors import ChildDied, GatewayError
from ccapi.schemas.message import Message
from ccapi.schemas.settings.logins import DEFAULT
from ccapi.schemas.settings.settings import ClaudeSettings
from ccapi.schemas.turn import Origin, ResumePoint, Setup
from ccapi.transport.process.child import Child
from ccapi.transport.process.ndjson import LineSplitter

POINT = ResumePoint("session", "uuid")


class HandMade(Child):
    """A child without a process: the pool sees the same events and attributes."""

    def __init__(self, pid: int, origin: Origin | None, login: str = DEFAULT) -> None:
        self.pid = pid
        self.origin = origin
        self.login = login
        self.status: int | None = None
        self.signals: list[int] = []
        self._outbox, _ = trio.open_memory_channel[Line](1)
        self._stderr = deque()
        self._lines = LineSplitter(1)
        self._frozen = False
        self._runs_others = False
        self.trace = None
        self.leave = trio.Event()
        self.gone = trio.Event()
        self.expected = False

    @property
    def returncode(self) -> int | None:
        return self.status

    def die(self) -> None:
        """It ends, and the pool has noticed."""
        self.status = 1
        self.leave.set()

    def _signal(self, number: int) -> None:
        self.signals.append(number)


class Works:
    """Where children are made. Counts every child from the first step of its making to its end."""

    def __init__(self) -> None:
        self.spawn_seconds = 0.01
        self.stop_seconds = 0.1
        self.broken: Exception | None = None  # raised instead of making one
        self.broken_logins: set[str] = set()  # of these none can be made
        self.breaks_later: Exception | None = None  # raised when one has ended
        self.at_birth: Callable[[], object] = int  # called in the step in which one is there
        self.at_end: Callable[[], object] = int  # called in the step in which one has gone
        self.made: list[HandMade] = []
        self.began: list[float] = []
        self.count = 0
        self.most = 0

    @asynccontextmanager
    async def open_one(self, origin: Origin | None, login: str = DEFAULT) -> AsyncIterator[Child]:
        self.began.append(trio.current_time())
        self.count += 1
        self.most = max(self.most, self.count)
        try:
            if self.broken is not None:
                raise self.broken
            if login in self.broken_logins:
                raise ChildDied(f"None of {login} can be made.")
            await trio.sleep(self.spawn_seconds)
            child = HandMade(len(self.made) + 1, origin, login)
            self.made.append(child)
            self.at_birth()
            try:
                yield child
            finally:
                child.expected = child.expected or not child.leave.is_set()
                with trio.CancelScope(shield=True):  # bounded by what the test says
                    await trio.sleep(0 if child.status is not None else self.stop_seconds)
                child.leave.set()
                child.gone.set()
                self.at_end()
                if self.breaks_later is not None:
                    raise self.breaks_later
        finally:
            self.count -= 1

    @property
    def alive(self) -> list[HandMade]:
        return [child for child in self.made if not child.gone.is_set()]


@define(eq=False)
class Holds:
    """What a child holds, as a test says: the system prompts that it `learnt`, and so many messages
    of a history, at any of which it can be cut."""

    learnt: tuple[str, ...] = ()
    messages: tuple[bytes, ...] = ()
    served: int = 0
    can_be_released: bool = True

    @property
    def is_empty(self) -> bool:
        return not self.messages

    def knows(self, setup: Setup) -> bool:
        return setup.system in self.learnt

    def cut_for(
        self, setup: Setup, digests: Sequence[bytes], exact: Sequence[Message] | None = None
    ) -> int:
        if not (self.can_be_released and self.knows(setup)):
            return 0
        pairs = zip(self.messages, digests, strict=False)
        return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


UNKNOWN = Holds(can_be_released=False)


async def take(pool: ChildPool, conversation_id: str, origin: Origin | None = None) -> Child:
    """A child for a conversation of which the pool knows nothing else."""
    return (await pool.acquire(conversation_id, origin)).child


def rest(pool: ChildPool, child: Child, go: Callable[[], None], *, suspended: bool = False) -> None:
    """The child's session offers it, and can only have it `go`."""
    pool.offer(child, lambda _: go(), UNKNOWN, suspended=suspended)


class World:
    """A pool, its works, and what it published."""

    def __init__(
        self, pool: ChildPool, works: Works, events: Subscription, book: LoginBook
    ) -> None:
        self.pool = pool
        self.book = book
        self.works = works
        self.events = events

    def report(self, login: str, status: str, utilization: float = 1.0, model: str = "m") -> None:
        """What a child of this login's would report of its limits, which end in a day."""
        resets_at = time.time() + 86400
        window = LimitWindow(utilization, resets_at, status)
        state = LimitState(status, resets_at, "five_hour", windows={"five_hour": window})
        self.book.note(login, state, model)

    async def settle(self) -> None:
        """Let a second pass: whatever was under way has happened."""
        await trio.sleep(1)

    def published(self) -> list[Any]:
        found = []
        while True:
            try:
                found.append(self.events.receive_nowait())
            except (trio.WouldBlock, trio.EndOfChannel):
                return found


@asynccontextmanager
async def open_world(
    works: Works | None = None,
    spares: SpareWishes | None = None,
    logins: Sequence[str] = (DEFAULT,),
    is_usable: Callable[[str], bool] = lambda _: True,
    **claude: Any,
) -> AsyncIterator[World]:
    works = works or Works()
    bus = Bus()
    given = {"prewarm": 0, "max_concurrent_sessions": 3, "freeze_after_seconds": 0.0, **claude}
    settings, wishes = ClaudeSettings(**given), spares or SpareWishes()
    with bus.subscribe(buffer=10_000) as events:
        book = LoginBook(logins)
        async with run_pool(
            works.open_one, settings, bus, spares=wishes, book=book, is_usable=is_usable
        ) as pool:
            yield World(pool, works, events, book)
    assert works.count == 0
    assert works.most <= given["max_concurrent_sessions"]


class Seeker:
    """A task that wants a child: `got` is set when it has one, or an error. `state` is what a child
    holds that served another conversation."""

    def __init__(
        self, world: World, nursery: trio.Nursery, origin: Origin | None,
        wants: Wants | None = None, owner: str = "", login: str = "", avoid: str = "",
    ) -> None:  # fmt: skip
        self.scope = trio.CancelScope()
        self.got = trio.Event()
        self.child: HandMade | None = None
        self.lent: Lent[Child] | None = None
        self.error: GatewayError | None = None
        self.wants, self.owner = wants, owner
        self.login, self.avoid = login, avoid
        self._pool = world.pool
        nursery.start_soon(self._run, origin)

    async def obtain(self) -> HandMade:
        """The child, once it is there."""
        await self.got.wait()
        assert self.child is not None, self.error
        return self.child

    async def _run(self, origin: Origin | None) -> None:
        with self.scope:
            try:
                self.lent = await self._pool.acquire(
                    "c", origin, self.wants, self.owner, self.login, self.avoid
                )
            except GatewayError as error:
                self.error = error
            else:
                assert isinstance(self.lent.child, HandMade)
                self.child = self.lent.child
            self.got.set()


async def seek(
    world: World, nursery: trio.Nursery, count: int = 1, origin: Origin | None = None
) -> list[Seeker]:
    """Begin to acquire, one after the other."""
    seekers = []
    for _ in range(count):
        seekers.append(Seeker(world, nursery, origin))
        await wait_all_tasks_blocked()
    return seekers
