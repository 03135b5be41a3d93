"""Several logins in one pool: which conversation gets which, and that children are kept apart."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from ccapi.actors.pool.pool import SpareWishes
from ccapi.actors.session.events import Wants
from ccapi.schemas.errors import ChildDied, QuotaExhausted
from ccapi.schemas.turn import AgentOrigin, Setup
from tests.support.pool_world import POINT, HandMade, Seeker, Works, World, open_world, rest, seek

WANTS = Wants(Setup("sonnet", "prompt"), ())
TWO, THREE = ("a", "b"), ("a", "b", "c")


async def login_of(world: World, login: str = "", avoid: str = "") -> str:
    """The login that a conversation gets, whose child then stays at work."""
    lent = await world.pool.acquire("c", None, WANTS, "", login, avoid)
    assert isinstance(lent.child, HandMade)
    assert lent.child.login == lent.login
    return lent.login


# -- which login -----------------------------------------------------------------------------------


async def test_conversations_are_spread_over_logins_of_which_nothing_is_known(
    autojump_clock: MockClock,
) -> None:
    async with open_world(logins=THREE, max_concurrent_sessions=9) as world:
        found = Counter([await login_of(world) for _ in range(9)])
        assert found == {"a": 3, "b": 3, "c": 3}
        assert world.published()[-1].login in THREE


async def test_also_those_that_come_at_once(autojump_clock: MockClock) -> None:
    async with (
        open_world(logins=THREE, max_concurrent_sessions=9) as world,
        trio.open_nursery() as nursery,
    ):
        seekers = await seek(world, nursery, 9)
        found = Counter([(await seeker.obtain()).login for seeker in seekers])
        assert found == {"a": 3, "b": 3, "c": 3}


async def test_the_least_used_goes_first_whatever_runs(autojump_clock: MockClock) -> None:
    async with open_world(logins=THREE, max_concurrent_sessions=9) as world:
        world.report("a", "allowed", 0.5)
        world.report("b", "allowed", 0.12)
        world.report("c", "allowed", 0.18)  # as much as b, in tenths
        found = [await login_of(world) for _ in range(4)]
        assert Counter(found) == {"b": 2, "c": 2}
        world.report("b", "allowed_warning", 0.95)
        world.report("c", "allowed_warning", 0.93)
        assert await login_of(world) == "a"


async def test_a_conversation_keeps_its_login(autojump_clock: MockClock) -> None:
    async with open_world(logins=TWO, max_concurrent_sessions=9) as world:
        world.report("b", "allowed", 0.9)
        assert [await login_of(world, "b") for _ in range(3)] == ["b"] * 3


@pytest.mark.parametrize("why", ["gone", "rejected", "unusable", "cannot start", "avoided"])
async def test_unless_that_cannot_be_asked(autojump_clock: MockClock, why: str) -> None:
    works, unusable = Works(), set[str]()
    async with open_world(
        works, logins=TWO, is_usable=lambda name: name not in unusable, max_concurrent_sessions=9
    ) as world:
        world.report("a", "allowed", 0.9)
        match why:
            case "rejected":
                world.report("b", "rejected")
            case "unusable":
                unusable.add("b")
            case "cannot start":
                works.broken_logins.add("b")
                with pytest.raises(ChildDied):
                    await login_of(world)
        old = "former" if why == "gone" else "b"
        if why == "gone":
            world.report("b", "rejected")
        assert await login_of(world, old, "b" if why == "avoided" else "") == "a"


async def test_where_none_can_be_asked_the_first_end_is_said(autojump_clock: MockClock) -> None:
    async with open_world(logins=TWO) as world:
        world.report("a", "rejected")
        assert world.pool.refusal("m") is None
        assert world.pool.refusal("m", "a") is not None
        assert world.pool.has_other("m", "a")
        world.report("b", "rejected")
        assert world.pool.refusal("m") is not None
        assert not world.pool.has_other("m", "a")
        for login in ("", "a", "b", "former"):
            with pytest.raises(QuotaExhausted):
                await login_of(world, login)
        assert world.works.made == []


# -- children are kept apart -----------------------------------------------------------------------


async def test_each_login_has_its_share_of_warm_children(autojump_clock: MockClock) -> None:
    async with open_world(logins=THREE, prewarm=2, max_concurrent_sessions=9) as world:
        await world.settle()
        assert Counter(child.login for child in world.works.alive) == {"a": 1, "b": 1, "c": 1}
        for login in THREE:
            lent = await world.pool.acquire("c", None, WANTS, "", login)
            assert (lent.ready.source, lent.login) == ("prewarmed", login)


async def test_a_login_whose_children_cannot_start_keeps_no_other_from_being_used(
    autojump_clock: MockClock,
) -> None:
    works = Works()
    works.broken_logins.add("a")
    async with open_world(works, logins=TWO, prewarm=2, max_concurrent_sessions=9) as world:
        await trio.sleep(20)
        assert [child.login for child in works.alive] == ["b"]
        assert world.pool.trouble is None
        assert [await login_of(world) for _ in range(3)] == ["b"] * 3
        works.broken_logins.add("b")
        for child in tuple(works.alive):
            child.die()
        await trio.sleep(120)
        assert world.pool.trouble is not None
        works.broken_logins.clear()
        await trio.sleep(120)
        assert world.pool.trouble is None


async def test_a_new_warm_child_is_for_a_waiter_of_its_own_login(
    autojump_clock: MockClock,
) -> None:
    works = Works()
    works.spawn_seconds = 1.0
    async with (
        open_world(works, logins=TWO, prewarm=1, max_concurrent_sessions=2) as world,
        trio.open_nursery() as nursery,
    ):
        await trio.sleep(0.5)  # one of each login is on its way, and fills the pool
        assert len(works.began) == 2
        seekers = [Seeker(world, nursery, None, WANTS, "", login) for login in ("b", "a")]
        for seeker, login in zip(seekers, ("b", "a"), strict=True):
            assert (await seeker.obtain()).login == login


async def test_an_idle_child_of_another_login_makes_room_and_serves_no_other(
    autojump_clock: MockClock,
) -> None:
    async with open_world(logins=TWO, max_concurrent_sessions=1) as world:
        first = await world.pool.acquire("c", None, WANTS, "", "a")
        rest(world.pool, first.child, first.child.retire)
        second = await world.pool.acquire("d", None, WANTS, "", "b")
        assert second.child is not first.child
        assert first.child.leave.is_set()


async def test_a_login_that_changes_costs_no_other_its_children(
    autojump_clock: MockClock,
) -> None:
    async with open_world(logins=TWO, prewarm=2, max_concurrent_sessions=9) as world:
        await world.settle()
        before = {child.login: child for child in world.works.alive}
        world.report("a", "rejected")
        world.pool.renew_login("a")
        await world.settle()
        assert before["a"].leave.is_set()
        assert not before["b"].leave.is_set()
        assert world.pool.refusal("m", "a") is None


@pytest.mark.parametrize("binds", [True, False])
async def test_an_agent_gets_a_spare_of_its_login(autojump_clock: MockClock, binds: bool) -> None:
    names = iter(f"conv_{number}" for number in range(100))
    wishes = SpareWishes(2, names.__next__ if binds else None)
    async with open_world(spares=wishes, logins=TWO, max_concurrent_sessions=16) as world:
        await trio.sleep(10)
        spares = {child.login: child for child in world.works.alive}
        assert set(spares) == {"a", "b"}
        workspace = world.pool.reserve_agent() or "mine"
        lent = await world.pool.acquire("c", AgentOrigin("sonnet", workspace))
        assert lent.child is spares[lent.login]
        assert lent.ready.claim is not None
        resumed = await world.pool.acquire("d", AgentOrigin("sonnet", "old", history=POINT), None)
        assert resumed.child not in spares.values()


@pytest.mark.parametrize("login", TWO)
@pytest.mark.parametrize("binds", [False, True])
async def test_an_agent_that_has_a_login_gets_no_spare_of_another(
    autojump_clock: MockClock, binds: bool, login: str
) -> None:
    """Whichever spare is the first that would suit it."""
    names = iter(f"conv_{number}" for number in range(100))
    wishes = SpareWishes(2, names.__next__ if binds else None)
    async with open_world(spares=wishes, logins=TWO, max_concurrent_sessions=16) as world:
        await trio.sleep(10)
        workspace = world.pool.reserve_agent() or "mine"
        lent = await world.pool.acquire("c", AgentOrigin("sonnet", workspace), None, "", login)
        assert isinstance(lent.child, HandMade)
        assert (lent.login, lent.child.login) == (login, login)


async def test_one_login_costs_a_conversation_nothing(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No choice is made, and no report is looked at."""

    def no_choice(*_: Any) -> str:
        raise AssertionError

    async with open_world() as world:
        monkeypatch.setattr(world.pool, "_choose", no_choice)
        await world.pool.acquire("c", None, WANTS)
        await wait_all_tasks_blocked()
