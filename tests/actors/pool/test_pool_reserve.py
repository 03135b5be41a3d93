"""The pool's reserve: idle conversations must not take all of it from new ones."""

from __future__ import annotations

from trio.testing import MockClock

from tests.support.pool_world import World, open_world, rest, take


async def use_and_rest(world: World) -> None:
    """What a request without a conversation id does: a new child, a turn, then idleness."""
    child = await take(world.pool, "c", None)
    await world.settle()
    rest(world.pool, child, child.retire)
    await world.settle()


async def test_new_conversations_find_a_warm_child_however_many_are_idle(
    autojump_clock: MockClock,
) -> None:
    async with open_world(prewarm=2, max_concurrent_sessions=8) as world:
        await world.settle()
        for _ in range(20):
            assert world.pool.statistics().warm == 2
            await use_and_rest(world)
            assert world.pool.statistics().live <= 8
        assert world.pool.statistics().idle == 6
        survivors = [child.pid for child in world.works.alive]
        assert survivors == [*range(15, 23)], "the least recently used went"


async def test_a_small_pool_keeps_its_conversations(autojump_clock: MockClock) -> None:
    async with open_world(prewarm=1, max_concurrent_sessions=3) as world:
        await world.settle()
        for _ in range(3):
            await use_and_rest(world)
        assert world.pool.statistics().idle == 3
        assert world.pool.statistics().warm == 0


async def test_busy_children_are_left_alone(autojump_clock: MockClock) -> None:
    async with open_world(prewarm=2, max_concurrent_sessions=8) as world:
        await world.settle()
        busy = [await take(world.pool, "c", None) for _ in range(2)]
        await world.settle()
        for _ in range(6):
            busy.append(await take(world.pool, "c", None))
            await world.settle()
        assert not any(child.leave.is_set() for child in busy)
        rest(world.pool, busy[0], busy[0].retire)
        await world.settle()
        assert world.pool.statistics().idle == 0, "one of the idle goes, so that one is warm"
        assert world.pool.statistics().warm == 1
        rest(world.pool, busy[1], busy[1].retire)
        await world.settle()
        assert world.pool.statistics().idle == 1, "but not more than stay"


async def test_one_that_waits_for_its_tools_goes_last(autojump_clock: MockClock) -> None:
    """It is in the middle of a turn; an idle one that rests for less long goes before it."""
    async with open_world(prewarm=0, max_concurrent_sessions=2) as world:
        waits = await take(world.pool, "a", None)
        idle = await take(world.pool, "b", None)
        rest(world.pool, waits, waits.kill, suspended=True)
        await world.settle()
        rest(world.pool, idle, idle.retire)
        await world.settle()
        await take(world.pool, "c", None)
        assert idle.leave.is_set()
        assert not waits.leave.is_set()
        await take(world.pool, "d", None)
        assert waits.leave.is_set()
