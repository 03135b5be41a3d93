"""Agents' spares in the pool: started ahead, promised by name, claimed, and out of the way of
clients that wait."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from ccapi.actors.pool.pool import SPARE_DELAY, ChildPool, SpareWishes
from ccapi.actors.pool.spare_agents import PROMISE_SECONDS
from ccapi.schemas.errors import ChildDied
from ccapi.schemas.events import ChildAdopted
from ccapi.schemas.turn import AgentOrigin, AgentSpare, Recording, ResumePoint
from ccapi.transport.process.child import Child
from tests.support.pool_world import HandMade, Works, World, open_world, rest, seek, take

POINT = ResumePoint("session", "uuid")


def names() -> Iterator[str]:
    return (f"conv_{number}" for number in count(1))


def bound(wanted: int = 1) -> SpareWishes:
    """As in a sandbox: each spare works where it was started."""
    given = names()
    return SpareWishes(wanted, lambda: next(given), claimed)


def free(wanted: int = 1, claim: Callable[[Child, str], Path] | None = None) -> SpareWishes:
    return SpareWishes(wanted, None, claim or claimed)


def claimed(child: Child, workspace: str) -> Path:
    return Path("/w", workspace)


def agent(workspace: str, **fields: object) -> AgentOrigin:
    return AgentOrigin("sonnet", workspace, **fields)  # type: ignore[arg-type]


def spares(world: World) -> list[HandMade]:
    return [child for child in world.works.alive if isinstance(child.origin, AgentSpare)]


async def settle(world: World) -> None:
    await trio.sleep(2 * SPARE_DELAY + 1)


async def lend(pool: ChildPool, origin: AgentOrigin) -> tuple[Child, str, str | None]:
    lent = await pool.acquire("c", origin)
    return lent.child, lent.ready.source, lent.ready.claim


async def test_a_new_agent_of_a_spares_name_gets_it(autojump_clock: MockClock) -> None:
    async with open_world(spares=bound(), max_concurrent_sessions=4) as world:
        assert world.pool.reserve_agent() == "", "none is ready yet"
        await settle(world)
        [spare] = spares(world)
        assert world.pool.statistics().warm == 1
        name = world.pool.reserve_agent()
        assert spare.origin == AgentSpare(name)
        assert world.pool.reserve_agent() == "", "it is promised"
        got = await lend(world.pool, agent(name))
        assert got == (spare, "prewarmed", f"/w/{name}")
        assert [e.warm for e in world.published() if isinstance(e, ChildAdopted)] == [True]
        await settle(world)
        assert spares(world) != [spare], "another is started"
        assert world.pool.statistics().warm == 1


@pytest.mark.parametrize(
    "origin",
    [
        agent("mine"),
        agent("conv_1", history=POINT),
        agent("conv_1", history=Recording((), "sonnet")),
        agent("conv_1", is_cold=True),
    ],
    ids=["named", "resumed", "recorded", "refused"],
)
async def test_any_other_agent_gets_a_new_child(
    origin: AgentOrigin, autojump_clock: MockClock
) -> None:
    async with open_world(spares=bound(), max_concurrent_sessions=4) as world:
        await settle(world)
        assert world.pool.reserve_agent() == "conv_1"
        child, source, claim = await lend(world.pool, origin)
        assert (source, claim) == ("new", None)
        assert isinstance(child, HandMade)
        assert child.origin == origin


async def test_where_no_sandbox_binds_it_a_spare_serves_any_new_agent(
    autojump_clock: MockClock,
) -> None:
    async with open_world(spares=free(), max_concurrent_sessions=4) as world:
        await settle(world)
        [spare] = spares(world)
        assert spare.origin == AgentSpare("")
        assert world.pool.reserve_agent() == "", "any name will do"
        assert await lend(world.pool, agent("mine")) == (spare, "prewarmed", "/w/mine")


async def test_a_chat_gets_no_spare(autojump_clock: MockClock) -> None:
    async with open_world(spares=free(), max_concurrent_sessions=4) as world:
        await settle(world)
        child = await take(world.pool, "c")
        assert child not in spares(world)


async def test_a_workspace_that_cannot_be_used_ends_the_spare(autojump_clock: MockClock) -> None:
    def broken(child: Child, workspace: str) -> Path:
        raise ChildDied("no")

    async with open_world(spares=free(claim=broken), max_concurrent_sessions=4) as world:
        await settle(world)
        [spare] = spares(world)
        with pytest.raises(ChildDied):
            await world.pool.acquire("c", agent("mine"))
        assert spare.leave.is_set()
        await settle(world)
        assert world.pool.statistics().live == 1


async def test_a_promise_ends(autojump_clock: MockClock) -> None:
    async with open_world(spares=bound(), max_concurrent_sessions=4) as world:
        await settle(world)
        [spare] = spares(world)
        name = world.pool.reserve_agent()
        await trio.sleep(PROMISE_SECONDS - 1)
        assert not spare.leave.is_set()
        await trio.sleep(2)
        assert spare.leave.is_set()
        await settle(world)
        [other] = spares(world)
        child, source, _ = await lend(world.pool, agent(name))
        assert (source, child is other) == ("new", False)


async def test_spares_are_a_quarter_of_the_places_at_most(autojump_clock: MockClock) -> None:
    for places, expected in ((3, 0), (4, 1), (8, 2)):
        async with open_world(spares=bound(3), max_concurrent_sessions=places) as world:
            await trio.sleep(10 * SPARE_DELAY)
            assert len(spares(world)) == expected


async def test_a_spare_makes_room_for_a_client_that_waits(autojump_clock: MockClock) -> None:
    async with open_world(spares=bound(), max_concurrent_sessions=4) as world:
        await settle(world)
        [spare] = spares(world)
        busy = [await take(world.pool, f"c{n}") for n in range(3)]
        async with trio.open_nursery() as nursery:
            [seeker] = await seek(world, nursery)
            assert spare.leave.is_set()
            assert spare.expected
            child = await seeker.obtain()
            assert child not in busy
        assert world.pool.statistics().live == 4
        await settle(world)
        assert spares(world) == [], "no place is free"
        rest(world.pool, child, child.retire)
        child.retire()
        await settle(world)
        assert len(spares(world)) == 1, "one is"


async def test_a_pool_full_of_idle_conversations_has_a_spare(autojump_clock: MockClock) -> None:
    async with open_world(spares=free(), max_concurrent_sessions=8) as world:
        await settle(world)
        for number in range(20):
            assert world.pool.statistics().warm == 1
            origin = agent("mine") if number % 2 else None
            lent = await world.pool.acquire("c", origin)
            assert (lent.ready.source == "prewarmed") == (number % 2 == 1)
            rest(world.pool, lent.child, lent.child.retire)
            await trio.sleep(10)
            assert world.pool.statistics().live <= 8


async def test_a_waiter_that_gave_up_leaves_no_place_taken(autojump_clock: MockClock) -> None:
    async with open_world(spares=bound(), max_concurrent_sessions=4) as world:
        await settle(world)
        for n in range(3):
            await take(world.pool, f"c{n}")
        async with trio.open_nursery() as nursery:
            [seeker] = await seek(world, nursery)
            seeker.scope.cancel()
        await settle(world)
        assert len(spares(world)) == 1
        assert world.pool.statistics().live == 4


async def test_a_dead_spare_is_replaced_later_and_later(autojump_clock: MockClock) -> None:
    works = Works()
    works.at_birth = lambda: works.made[-1].die()
    async with open_world(works, spares=bound(), max_concurrent_sessions=4) as world:
        await trio.sleep(60)
        pauses = [b - a for a, b in zip(works.began, works.began[1:], strict=False)]
        assert pauses == sorted(pauses)
        assert 4 <= len(pauses) <= 8
        assert world.pool.trouble is None, "turns are served all the same"
        works.at_birth = int
        await trio.sleep(60)
        assert len(spares(world)) == 1


async def test_a_spare_that_dies_while_it_waits_is_replaced(autojump_clock: MockClock) -> None:
    async with open_world(spares=bound(), max_concurrent_sessions=4) as world:
        await settle(world)
        [spare] = spares(world)
        spare.die()
        assert world.pool.reserve_agent() == "", "it lives no more"
        await settle(world)
        [other] = spares(world)
        assert other is not spare


async def test_a_renewed_pool_has_other_spares(autojump_clock: MockClock) -> None:
    async with open_world(spares=bound(), max_concurrent_sessions=4) as world:
        await settle(world)
        [spare] = spares(world)
        world.pool.renew()
        assert spare.leave.is_set()
        await settle(world)
        assert len(spares(world)) == 1


async def test_a_spare_is_frozen_like_any_idle_child(autojump_clock: MockClock) -> None:
    async with open_world(
        spares=bound(), max_concurrent_sessions=4, freeze_after_seconds=20.0
    ) as world:
        await trio.sleep(30)
        [spare] = spares(world)
        assert spare.frozen


async def test_a_second_spare_waits_until_no_child_works(autojump_clock: MockClock) -> None:
    async with open_world(spares=free(2), max_concurrent_sessions=8) as world:
        await trio.sleep(5 * SPARE_DELAY)
        assert len(spares(world)) == 2
        child = await take(world.pool, "c")
        await world.pool.acquire("d", agent("mine"))
        rest(world.pool, child, child.retire)
        await trio.sleep(2 * SPARE_DELAY)
        assert world.pool.statistics().warm == 1, "the agent works, and one is ready"
        await trio.sleep(6)
        assert world.pool.statistics().warm == 2
