"""The pool's reserve: idle conversations must not take all of it from new ones."""

from __future__ import annotations

import trio
from trio.testing import MockClock

from ccapi.actors.pool.pool import ROOM_SECONDS
from ccapi.actors.session.events import Wants
from ccapi.schemas.turn import Setup
from ccapi.transport.process.child import Child
from tests.support.pool_world import Holds, World, open_world, rest, take


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


# -- children that can be emptied ------------------------------------------------------------------


def rest_emptied(world: World, child: Child, *, valued: bool = False) -> None:
    """The child's session offers it, and empties it for another if it has to."""

    def give_way(keep: int | None) -> None:
        if keep is None:
            child.retire()
        else:
            world.pool.take_back(child, Holds(("",)))

    world.pool.offer(child, give_way, Holds(("",), (b"said",)), valued=valued)


async def begin(world: World) -> Child:
    """A conversation without a system prompt begins."""
    return (await world.pool.acquire("c", None, Wants(Setup("sonnet"), ()))).child


async def test_children_that_can_be_emptied_make_no_room(autojump_clock: MockClock) -> None:
    """Clients that begin one conversation after the other start no process."""
    async with open_world(prewarm=2, max_concurrent_sessions=8) as world:
        await world.settle()
        clients = [await begin(world) for _ in range(7)]
        await world.settle()
        made = len(world.works.made)
        for _ in range(20):
            for child in clients[:2]:
                rest_emptied(world, child)
            await world.settle()
            clients[:2] = [await begin(world), await begin(world)]
            await world.settle()
        assert len(world.works.made) == made
        assert len(world.works.alive) == 8


async def test_room_is_made_once_in_a_while(autojump_clock: MockClock) -> None:
    """Clients may come back to all of these conversations: their children are not counted."""
    async with open_world(prewarm=2, max_concurrent_sessions=8) as world:
        await world.settle()
        began = trio.current_time()
        for _ in range(40):
            rest_emptied(world, await begin(world), valued=True)
            await world.settle()
        rooms = (trio.current_time() - began) / ROOM_SECONDS
        gone = sum(child.leave.is_set() for child in world.works.made)
        assert rooms / 2 < gone <= 2 * rooms
