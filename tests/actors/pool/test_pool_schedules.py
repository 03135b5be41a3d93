"""The pool under random schedules: whatever sessions do, no place is lost, no session waits beside
a child that it could use, and no child serves two keys, or two sessions at once."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from typing import Any

import trio
from attrs import define, field
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock, wait_all_tasks_blocked

from ccapi.actors.pool.pool import SpareWishes
from ccapi.actors.session.events import Wants
from ccapi.schemas.turn import AgentOrigin, Setup
from tests.support.pool_world import POINT, HandMade, Holds, Seeker, World, open_world

NAMES = ("a", "b", "c")

STEPS = st.lists(
    st.tuples(
        st.sampled_from(
            [
                *("ask", "ask", "ask", "acquire", "resume", "cancel", "kill", "retire", "die"),
                *("agent", "agent"),
                *("offer", "offer", "suspend", "use", "answer", "answer", "refuse", "renew"),
                *("limit", "lift", "change"),
            ]
        ),
        st.integers(0, 99),
        st.sampled_from([0.0, 0.0, 0.004, 0.01, 0.1, 1.0, 20.0]),
    ),
    max_size=60,
)


def consistent(world: World) -> None:
    """What holds whenever every task waits."""
    pool, works = world.pool, world.works
    figures = pool.statistics()
    assert figures.live == works.count <= figures.limit
    assert pool._children == set(works.alive)
    assert pool._making_way <= pool._children
    assert set(pool._warm) <= pool._children
    assert set(pool._spares._spares) <= pool._children
    groups = (pool._idle, pool._suspended, pool._free, pool._slices, pool._releasing)
    resting = [set(each) for each in groups]
    for number, group in enumerate(resting):
        assert group <= pool._children
        assert not any(group & other for other in resting[number + 1 :]), "in one place at a time"
    if figures.waiting:
        assert figures.live == figures.limit, "a session waits beside a free place"
        unprovided = figures.waiting > len(pool._making_way)
        idle = figures.idle - len(pool._slices)  # these go on in a moment
        assert not (unprovided and (figures.warm or idle)), "unused room is kept from them"


@define(eq=False)
class Sessions:
    """Those who have children, and do with them what sessions do."""

    world: World
    nursery: trio.Nursery
    seekers: list[Seeker] = field(factory=list)
    holds: dict[HandMade, Holds] = field(factory=dict)
    owners: dict[HandMade, str] = field(factory=dict)
    asked: dict[HandMade, int] = field(factory=dict)  # releases that are not answered yet
    held: dict[HandMade, Seeker] = field(factory=dict)

    def look(self) -> None:
        """Take note of what the pool has lent."""
        for seeker in self.seekers:
            lent, child = seeker.lent, seeker.child
            if lent is None or child is None:
                continue
            seeker.lent = None
            assert child not in self.held, "lent twice"
            self.held[child] = seeker
            assert lent.login == child.login, "it serves another login's conversation"
            state = lent.ready.state
            if state is None:
                assert child not in self.holds, "what it holds was forgotten"
                prompts = (seeker.wants.setup.system,) if seeker.wants else ()
                self.holds[child] = Holds((*prompts, *lent.ready.palette))
            else:
                assert state is self.holds[child]
                assert self.owners[child] == seeker.owner, "it served another key"
                assert seeker.wants is not None
                assert state.knows(seeker.wants.setup)
                kept = self.holds[child].messages
                assert seeker.wants.digests[: len(kept)] == kept, "it holds another's message"
            self.owners[child] = seeker.owner

    def offer(self, child: HandMade, number: int, *, suspended: bool = False) -> None:
        if child in self.asked:
            return
        state, wants = self.holds[child], self.held[child].wants
        state.messages = wants.digests if wants is not None else ()
        state.can_be_released = wants is not None and number % 5 != 0

        def give_way(keep: int | None) -> None:
            if keep is None or not state.can_be_released:
                child.retire()
            else:
                self.asked[child] = keep

        self.world.pool.withdraw(child)
        self.world.pool.offer(
            child, give_way, state, suspended=suspended, valued=number % 2 == 0,
            expected=number % 3 * 0.02,
        )  # fmt: skip

    def answer(self, *, refused: bool = False) -> None:
        """The child that was asked first says that it was cut back; or it would not be."""
        if not self.asked:
            return
        child = next(iter(self.asked))
        keep, state = self.asked.pop(child), self.holds[child]
        if refused or child.leave.is_set():
            child.kill()
            return
        state.messages, state.served = state.messages[:keep], state.served + 1
        del self.held[child]
        self.world.pool.take_back(child, state)


def wanted(number: int) -> tuple[Wants, str]:
    """One of three system prompts, one of two keys, and a history that begins like others."""
    setup = Setup("sonnet", f"prompt {number % 3}")
    digests = tuple(bytes([number // 12 % 2, depth]) for depth in range(number // 24 % 3))
    return Wants(setup, digests), f"key {number // 3 % 2}"


async def _play(
    steps: list[tuple[str, int, float]], limit: int, prewarm: int, wishes: SpareWishes,
    logins: int,
) -> None:  # fmt: skip
    async with (
        trio.open_nursery() as nursery,
        open_world(
            spares=wishes,
            logins=NAMES[:logins],
            max_concurrent_sessions=limit,
            prewarm=prewarm,
            max_waiting_turns=4,
        ) as world,
    ):
        sessions = Sessions(world, nursery)
        for order, number, pause in steps:
            sessions.look()
            held = [child for child in sessions.held if not child.leave.is_set()]
            child = held[number % len(held)] if held else None
            match order:
                case "ask":
                    sticky = ("", *NAMES)[number % 4]
                    avoid = NAMES[0] if number % 9 == 0 else ""
                    seeker = Seeker(world, nursery, None, *wanted(number), sticky, avoid)
                    sessions.seekers.append(seeker)
                case "acquire" | "resume":
                    origin = POINT if order == "resume" else None
                    sessions.seekers.append(Seeker(world, nursery, origin))
                case "agent":
                    name = world.pool.reserve_agent() if number % 3 else ""
                    if number % 7:  # else its first turn never comes
                        agent = AgentOrigin("sonnet", name or "mine")
                        sessions.seekers.append(Seeker(world, nursery, agent))
                case "cancel" if sessions.seekers:
                    seeker = sessions.seekers[-1 - number % len(sessions.seekers)]
                    if not seeker.got.is_set():
                        seeker.scope.cancel()
                case "kill" if child:
                    child.kill()
                case "retire" if child:
                    child.retire()
                case "die" if world.works.alive:
                    world.works.alive[number % len(world.works.alive)].die()
                case "offer" | "suspend" if child:
                    sessions.offer(child, number, suspended=order == "suspend")
                case "use" if child and child not in sessions.asked:
                    world.pool.withdraw(child)
                case "answer" | "refuse":
                    sessions.answer(refused=order == "refuse")
                case "limit" | "lift":
                    status = "rejected" if order == "limit" else "allowed"
                    world.report(NAMES[number % logins], status, number % 10 / 10, "sonnet")
                case "change" if number % 10 == 0:
                    world.pool.renew_login(NAMES[number // 10 % logins])
                case "renew" if number % 10 == 0:
                    world.pool.renew()
            if pause:
                await trio.sleep(pause)
                await wait_all_tasks_blocked()
                sessions.look()
                consistent(world)
        while sessions.asked:
            sessions.answer()
            await wait_all_tasks_blocked()
            sessions.look()
        await trio.sleep(31)  # the longest that a session waits
        while sessions.asked:
            sessions.answer()
        await wait_all_tasks_blocked()
        consistent(world)
        assert not world.pool._slices
        for seeker in sessions.seekers:
            assert seeker.got.is_set() or seeker.scope.cancel_called
        for login in NAMES[:logins]:
            world.pool.renew_login(login)
        for child in world.works.made:
            child.kill()
        await trio.sleep(31)
        consistent(world)
        figures = world.pool.statistics()
        assert figures.waiting == figures.idle == 0
        assert min(prewarm, limit) <= figures.warm == figures.live


@settings(max_examples=300, deadline=None)
@given(
    STEPS, st.integers(1, 8), st.integers(0, 2), st.integers(0, 2), st.booleans(), st.integers(1, 3)
)
def test_in_any_order_nothing_is_lost_and_nothing_is_stuck(
    steps: list[tuple[str, int, float]], limit: int, prewarm: int, agents: int, binds: bool,
    logins: int,
) -> None:  # fmt: skip
    play: Callable[..., Any] = _play
    clock = MockClock(autojump_threshold=0)
    names = (f"conv_{number}" for number in count())
    wishes = SpareWishes(agents, names.__next__ if binds else None)
    trio.run(play, steps, limit, min(prewarm, limit), wishes, logins, clock=clock)


FEW = st.lists(
    st.tuples(
        st.sampled_from([*("ask",) * 4, *("offer",) * 3, *("answer",) * 2, "limit", "lift"]),
        # One key, two system prompts, and every choice of a login: so children come to be reused.
        st.sampled_from([1, 7, 13, 19, 31, 6, 12, 18, 24]),
        st.sampled_from([0.004, 0.1, 1.0]),
    ),
    min_size=8,
    max_size=40,
)


@settings(max_examples=120, deadline=None)
@given(FEW, st.integers(1, 4), st.integers(0, 2), st.integers(2, 3))
def test_no_child_serves_another_logins_conversation(
    steps: list[tuple[str, int, float]], limit: int, prewarm: int, logins: int
) -> None:
    play: Callable[..., Any] = _play
    clock = MockClock(autojump_threshold=0)
    trio.run(play, steps, limit, min(prewarm, limit), SpareWishes(), logins, clock=clock)
