"""The pool's decisions, on children made by hand and a clock that jumps.

What it does with real processes is in test_pool_processes.
"""

from __future__ import annotations

import itertools
import math

import pytest
import trio
from structlog.testing import capture_logs
from trio.testing import MockClock, wait_all_tasks_blocked

from ccapi.actors.pool.pool import (
    REFILL_DELAY,
    REFILL_PATIENCE,
    SETTLED_SECONDS,
    SPAWN_SECONDS,
    TROUBLE_SECONDS,
    run_pool,
)
from ccapi.actors.runtime.bus import Bus
from ccapi.schemas.errors import (
    ChildDied,
    CliUnusable,
    InternalError,
    NotLoggedIn,
    Overloaded,
    RateLimited,
)
from ccapi.schemas.events import ChildAdopted, ChildExited, ChildFrozen, ChildSpawned
from ccapi.schemas.settings.settings import ClaudeSettings
from tests.support.pool_world import POINT, HandMade, Works, open_world, rest, seek, take

# --- warm children --------------------------------------------------------------------------------


async def test_children_are_kept_warm_and_replaced(autojump_clock: MockClock) -> None:
    async with open_world(prewarm=2) as world:
        await world.settle()
        first, second = world.works.made
        assert world.pool.statistics().warm == 2
        assert await take(world.pool, "c", None) is first
        assert world.pool.statistics().warm == 1
        # The next one boots when the first works no longer, or has worked for a while.
        await trio.sleep(REFILL_PATIENCE)
        assert world.pool.statistics().warm == 1
        await world.settle()
        assert world.pool.statistics().warm == 2
        assert world.pool.statistics().live == 3
        assert await take(world.pool, "c", None) is second
        adopted = [event for event in world.published() if isinstance(event, ChildAdopted)]
        assert adopted == [ChildAdopted(1, "c", True, 0.0), ChildAdopted(2, "c", True, 0.0)]


async def test_the_bound_counts_warm_children(autojump_clock: MockClock) -> None:
    async with open_world(prewarm=2, max_concurrent_sessions=3) as world:
        await world.settle()
        for _ in range(3):
            await take(world.pool, "c", None)
            await world.settle()
        assert world.pool.statistics().warm == 0
        assert world.pool.statistics().live == world.works.count == 3


async def test_a_child_that_resumes_is_a_new_one(autojump_clock: MockClock) -> None:
    async with open_world(prewarm=1) as world:
        await world.settle()
        child = await take(world.pool, "c", POINT)
        assert isinstance(child, HandMade)
        assert child.origin == POINT
        assert world.pool.statistics().warm == 1
        spawned = [event.resumed for event in world.published() if isinstance(event, ChildSpawned)]
        assert spawned == [False, True]


async def test_a_warm_child_makes_way_for_one_that_resumes(autojump_clock: MockClock) -> None:
    async with open_world(prewarm=3) as world:
        await world.settle()
        child = await take(world.pool, "c", POINT)
        assert child.pid == 4
        assert world.works.made[2].expected  # the one that was warmed last
        await world.settle()
        assert world.pool.statistics().warm == 2


async def test_a_warm_child_on_its_way_goes_to_who_waits(autojump_clock: MockClock) -> None:
    # At the start the one place is taken by the child that is being warmed.
    async with open_world(prewarm=1, max_concurrent_sessions=1) as world:
        await wait_all_tasks_blocked()
        child = await take(world.pool, "c", None)
        assert child.pid == 1
        assert world.published()[-1] == ChildAdopted(1, "c", True, world.works.spawn_seconds)


async def test_a_warm_child_on_its_way_gives_way_to_one_that_resumes(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    async with open_world(prewarm=1, max_concurrent_sessions=1) as world:
        await wait_all_tasks_blocked()
        [resumes, fresh] = [
            *await seek(world, nursery, origin=POINT),
            *await seek(world, nursery),
        ]
        child = await resumes.obtain()  # it came first, though it cannot use the warm one
        assert child.origin == POINT
        assert not fresh.got.is_set()


async def test_whose_room_is_coming_lets_a_warm_child_pass(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    works = Works()
    works.stop_seconds = 20
    async with open_world(works, max_concurrent_sessions=2, prewarm=1) as world:
        await world.settle()
        used = await take(world.pool, "c", None)
        await world.settle()
        works.spawn_seconds = 2
        world.works.made[1].die()  # its successor takes two seconds to make
        await trio.sleep(1)
        rest(world.pool, used, used.retire)
        [resumes] = await seek(world, nursery, origin=POINT)  # `used` leaves for it
        assert used.expected
        [fresh] = await seek(world, nursery)
        with trio.fail_after(10):
            assert await fresh.obtain() is world.works.made[2]
        assert not resumes.got.is_set()
        await resumes.obtain()


async def test_warm_children_that_die_are_replaced_at_growing_pauses(
    autojump_clock: MockClock,
) -> None:
    works = Works()
    works.spawn_seconds = 0.0
    async with open_world(works, prewarm=1) as world:
        pauses = []
        for number in range(8):
            await trio.sleep(60)
            works.made[number].die()
            died = trio.current_time()
            await trio.sleep(60)
            pauses.append(works.began[-1] - died)
        assert world.pool.statistics().warm == 1
        assert pauses == pytest.approx([0.5, 1, 2, 4, 8, 16, 30, 30], abs=0.02)


async def test_a_child_that_dies_at_once_makes_no_hot_loop(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    works = Works()
    async with open_world(works, prewarm=1) as world:

        def die_at_once() -> None:
            works.made[-1].die()

        works.at_birth = die_at_once
        await trio.sleep(100)
        gaps = [later - earlier for earlier, later in itertools.pairwise(works.began)]
        assert gaps[:8] == pytest.approx([0.5, 1, 2, 4, 8, 16, 30, 30], abs=0.02)
        assert world.pool.statistics().live == 0


async def test_an_adoption_ends_the_pauses(autojump_clock: MockClock) -> None:
    async with open_world(prewarm=1) as world:
        for number in range(6):
            await trio.sleep(40)
            world.works.made[number].die()
        await trio.sleep(40)
        await take(world.pool, "c", None)
        await trio.sleep(REFILL_DELAY + 0.1)
        assert world.pool.statistics().warm == 1


async def test_a_warm_child_that_died_this_moment_is_not_adopted(autojump_clock: MockClock) -> None:
    async with open_world(prewarm=2) as world:
        await world.settle()
        first, second = world.works.made
        first.status = -9  # killed; the task that waits for its exit has not run yet
        assert await take(world.pool, "c", None) is second
        first.leave.set()
        await world.settle()
        assert world.pool.statistics().live == world.works.count


async def test_a_warm_child_is_frozen_after_a_while(autojump_clock: MockClock) -> None:
    async with open_world(prewarm=2, freeze_after_seconds=10) as world:
        await trio.sleep(5)
        used = await take(world.pool, "c", None)
        await trio.sleep(10)
        assert [child.frozen for child in world.works.made] == [False, True, False]
        assert not used.frozen
        assert [event for event in world.published() if isinstance(event, ChildFrozen)] == [
            ChildFrozen(2)
        ]


# --- idle children give way -----------------------------------------------------------------------


async def test_the_least_recently_used_gives_way(autojump_clock: MockClock) -> None:
    async with open_world() as world:
        children = [await take(world.pool, "c", None) for _ in range(3)]
        for child in children:
            rest(world.pool, child, child.retire)
        world.pool.withdraw(children[0])  # a turn, and idle again: now it is the latest
        rest(world.pool, children[0], children[0].retire)
        world.pool.withdraw(children[2])  # in a turn
        for expected in (children[1], children[0]):
            new = await take(world.pool, "c", None)
            assert new not in children
            assert expected.gone.is_set()
        assert not children[2].leave.is_set()


async def test_a_child_that_becomes_idle_gives_way_at_once(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    async with open_world(max_concurrent_sessions=1) as world:
        child = await take(world.pool, "c", None)
        [seeker] = await seek(world, nursery)
        rest(world.pool, child, child.retire)
        assert child.expected
        assert world.pool.statistics().idle == 0
        await seeker.obtain()


async def test_one_who_waits_displaces_one_child(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    async with open_world() as world:
        children = [await take(world.pool, "c", None) for _ in range(3)]
        for child in children:
            rest(world.pool, child, child.retire)
        seekers = await seek(world, nursery, 2)
        assert [child.leave.is_set() for child in children] == [True, True, False]
        for seeker in seekers:
            await seeker.obtain()
        assert world.pool.statistics().idle == 1


async def test_a_child_that_died_unnoticed_is_not_counted_on(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    # A session may learn of its child's end later than the pool, and offer what is gone.
    async with open_world(max_concurrent_sessions=2) as world:
        dead, busy = [await take(world.pool, "c", None) for _ in range(2)]
        assert isinstance(dead, HandMade)
        dead.die()
        await world.settle()
        rest(world.pool, dead, dead.retire)
        assert world.pool.statistics().idle == 0
        await take(world.pool, "c", None)
        [seeker] = await seek(world, nursery)
        rest(world.pool, busy, busy.retire)
        with trio.fail_after(1):
            await seeker.obtain()


# --- the queue ------------------------------------------------------------------------------------


async def test_first_come_first_served(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    async with open_world() as world:
        children = [await take(world.pool, "c", None) for _ in range(3)]
        seekers = await seek(world, nursery, 3)
        assert world.pool.statistics().waiting == 3
        for number, child in enumerate(children):
            child.kill()
            await seekers[number].obtain()
            assert [seeker.got.is_set() for seeker in seekers] == [
                later <= number for later in range(3)
            ]


async def test_no_waiter_overtakes_the_queue(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    async with open_world(max_concurrent_sessions=1) as world:
        child = await take(world.pool, "c", None)
        [first] = await seek(world, nursery)
        child.kill()
        await child.gone.wait()  # its place is given to `first`, who has not run yet
        [second] = await seek(world, nursery)
        await first.obtain()
        assert not second.got.is_set()


async def test_a_full_queue_refuses_with_a_retry_after(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    async with open_world(max_concurrent_sessions=1, max_waiting_turns=2) as world:
        await take(world.pool, "c", None)
        await seek(world, nursery, 2)
        with pytest.raises(RateLimited) as raised:
            await take(world.pool, "c", None)
        assert raised.value.code == "too_many_turns"
        assert raised.value.retry_after == 30  # nothing is known of the pace: the queue's own time
        assert world.pool.statistics().waiting == 2


async def test_retry_after_follows_the_pace(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    async with open_world(max_concurrent_sessions=1, max_waiting_turns=1) as world:
        for _ in range(4):
            child = await take(world.pool, "c", None)
            await trio.sleep(8)
            child.kill()
            await child.gone.wait()
        await take(world.pool, "c", None)
        await seek(world, nursery)
        with pytest.raises(RateLimited) as raised:
            await take(world.pool, "c", None)
        assert raised.value.retry_after == pytest.approx(16, rel=0.1)  # second in the queue


async def test_retry_after_follows_use_and_not_idle_time(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    async with open_world(max_concurrent_sessions=1, queue_timeout_seconds=1) as world:
        child = await take(world.pool, "c", None)
        for turn in range(4):  # one child, idle in between: a turn's end counts, not its burial
            if turn:
                world.pool.withdraw(child)
            await trio.sleep(6)
            rest(world.pool, child, child.retire)
            await trio.sleep(1)
        await trio.sleep(400)
        world.pool.withdraw(child)
        await trio.sleep(3)
        [late] = await seek(world, nursery)
        await late.got.wait()
        assert isinstance(late.error, RateLimited)
        assert late.error.retry_after == pytest.approx(6)
        await trio.sleep(16)  # this turn takes longer than is usual: 20 seconds
        [later] = await seek(world, nursery)
        await later.got.wait()
        assert isinstance(later.error, RateLimited)
        assert later.error.retry_after == pytest.approx(21)
        await trio.sleep(4000)  # and no turn takes longer than it may
        [last] = await seek(world, nursery)
        await last.got.wait()
        assert isinstance(last.error, RateLimited)
        assert last.error.retry_after == pytest.approx(300)


async def test_an_idle_child_that_ends_does_not_change_the_wait_estimate(
    autojump_clock: MockClock,
) -> None:
    async with open_world(max_concurrent_sessions=3, max_waiting_turns=0, prewarm=0) as world:
        children = [await take(world.pool, "c", None) for _ in range(3)]
        await trio.sleep(9)
        for child in children:
            rest(world.pool, child, child.retire)
        await trio.sleep(60)
        for child in children:  # as a session does that has been idle for long
            world.pool.withdraw(child)
            child.retire()
            await child.gone.wait()
        for _ in range(3):
            await take(world.pool, "c", None)
        with pytest.raises(RateLimited) as raised:
            await take(world.pool, "c", None)
        assert raised.value.retry_after == pytest.approx(
            3, rel=0.01
        )  # three places, nine seconds each


async def test_the_oldest_waiter_gets_the_shortest_retry_after(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    async with open_world(max_concurrent_sessions=1, queue_timeout_seconds=1) as world:
        child = await take(world.pool, "c", None)
        await trio.sleep(8)
        child.kill()
        await child.gone.wait()
        await take(world.pool, "c", None)
        seekers = []
        for _ in range(4):
            seekers += await seek(world, nursery)
            await trio.sleep(0.1)
        await seekers[-1].got.wait()
        errors = [seeker.error for seeker in seekers]
        assert all(isinstance(error, RateLimited) for error in errors)
        # Each was the first in the queue by the time its patience ended.
        assert [error and error.retry_after for error in errors] == [pytest.approx(8)] * 4


async def test_who_takes_unused_room_is_not_refused(autojump_clock: MockClock) -> None:
    async with open_world(max_concurrent_sessions=2, max_waiting_turns=0, prewarm=1) as world:
        child = await take(world.pool, "c", None)
        await world.settle()
        rest(world.pool, child, child.retire)
        for _ in range(2):
            assert (await take(world.pool, "c", POINT)) in world.works.alive
        with pytest.raises(RateLimited):
            await take(world.pool, "c", POINT)


async def test_a_wait_in_vain_ends(autojump_clock: MockClock) -> None:
    async with open_world(max_concurrent_sessions=1, queue_timeout_seconds=7) as world:
        child = await take(world.pool, "c", None)
        began = trio.current_time()
        with pytest.raises(RateLimited) as raised:
            await take(world.pool, "c", None)
        assert trio.current_time() - began == 7
        assert raised.value.retry_after == 7
        assert world.pool.statistics().waiting == 0
        child.kill()
        await world.settle()
        assert world.pool.statistics().live == 0


async def test_a_cancelled_waiter_has_no_trace(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    async with open_world(max_concurrent_sessions=1) as world:
        child = await take(world.pool, "c", None)
        first, second = await seek(world, nursery, 2)
        first.scope.cancel()
        await wait_all_tasks_blocked()
        assert world.pool.statistics().waiting == 1
        child.kill()
        await second.obtain()
        assert not first.got.is_set()


async def test_a_cancelled_waiter_passes_its_place_on(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    async with open_world(max_concurrent_sessions=1) as world:
        child = await take(world.pool, "c", None)
        first, second = await seek(world, nursery, 2)
        # It is served in the step in which it is cancelled, before it can leave the queue.
        world.works.at_end = first.scope.cancel
        child.kill()
        await second.obtain()
        assert not first.got.is_set()
        assert world.pool.statistics().live == 1


async def test_a_cancelled_waiter_passes_its_warm_child_on(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    for _ in range(20):  # the order of two tasks in a step is random
        async with open_world(max_concurrent_sessions=1, prewarm=1) as world:
            await wait_all_tasks_blocked()
            first, second = await seek(world, nursery, 2)
            world.works.at_birth = first.scope.cancel
            assert (await second.obtain()).pid == 1
            assert first.child is None


# --- trouble --------------------------------------------------------------------------------------


async def test_a_program_that_is_missing_fails_the_turn_and_not_the_pool(
    autojump_clock: MockClock,
) -> None:
    works = Works()
    works.broken = Overloaded("There is no CLI.", code="cli_not_found")
    async with open_world(works, prewarm=1) as world:
        for _ in range(5):
            with pytest.raises(Overloaded, match="There is no CLI"):
                await take(world.pool, "c", None)
        await trio.sleep(100)
        assert len(works.began) < 20  # it is tried again, at growing pauses
        assert world.pool.statistics().live == 0
        works.broken = None
        await trio.sleep(31)
        assert world.pool.statistics().warm == 1


async def test_an_internal_error_at_the_start_fails_the_turn_and_not_the_pool(
    autojump_clock: MockClock,
) -> None:
    works = Works()
    works.broken = ZeroDivisionError("a bug")
    async with open_world(works, prewarm=1) as world:
        with pytest.raises(InternalError) as raised:
            await take(world.pool, "c", POINT)
        assert isinstance(raised.value.__cause__, ZeroDivisionError)
        await wait_all_tasks_blocked()
        assert world.pool.statistics().live == 0
        works.broken = None
        await trio.sleep(31)
        assert world.pool.statistics().warm == 1


async def test_an_internal_error_at_the_end_gives_the_place_back(autojump_clock: MockClock) -> None:
    works = Works()
    works.breaks_later = ZeroDivisionError("a bug")
    async with open_world(works, max_concurrent_sessions=1) as world:
        for _ in range(3):
            child = await take(world.pool, "c", None)
            child.kill()
        await world.settle()
        works.breaks_later = None
        assert world.pool.statistics().live == 0
        exits = [event for event in world.published() if isinstance(event, ChildExited)]
        assert len(exits) == 3


async def test_a_process_that_will_not_start_ends_the_wait(autojump_clock: MockClock) -> None:
    works = Works()
    works.spawn_seconds = math.inf
    async with open_world(works) as world:
        began = trio.current_time()
        with pytest.raises(ChildDied, match="in time"):
            await take(world.pool, "c", None)
        assert trio.current_time() - began == SPAWN_SECONDS
        assert world.pool.statistics().live == 0


async def test_a_cancelled_caller_does_not_lose_the_child_it_was_given(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    async with open_world() as world:
        [seeker] = await seek(world, nursery)
        seeker.scope.cancel()  # while the process starts
        child = await seeker.obtain()
        assert child in world.works.alive  # only its keeper knows it
        child.kill()
        await world.settle()
        assert world.pool.statistics().live == 0


async def test_a_cancelled_caller_gets_no_child(autojump_clock: MockClock) -> None:
    async with open_world(prewarm=1) as world:
        await world.settle()
        with trio.CancelScope() as scope:
            scope.cancel()
            await take(world.pool, "c", None)
        assert scope.cancelled_caught
        assert world.pool.statistics().warm == 1


# --- the end --------------------------------------------------------------------------------------


async def test_closing_ends_every_child_and_reports_it(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    works = Works()
    works.stop_seconds = 3
    async with open_world(works, prewarm=2, max_concurrent_sessions=5) as world:
        await world.settle()
        used = await take(world.pool, "c", None)
        idle = await take(world.pool, "c", None)
        rest(world.pool, idle, idle.retire)
        leaving = await take(world.pool, "c", POINT)
        leaving.retire()
        works.spawn_seconds = 0.5
        await seek(world, nursery)
        began = trio.current_time()
    assert trio.current_time() - began <= 0.5 + 3
    assert world.pool.statistics().live == 0
    events = world.published()
    born = {event.pid for event in events if isinstance(event, ChildSpawned)}
    ended = {event.pid: event.expected for event in events if isinstance(event, ChildExited)}
    assert ended == dict.fromkeys(born, True)
    assert used.pid in born


async def test_once_closed_it_lends_nothing(autojump_clock: MockClock) -> None:
    async with open_world(prewarm=1) as world:
        pass
    for origin in (None, POINT):
        with pytest.raises(Overloaded) as raised:
            await take(world.pool, "c", origin)
        assert raised.value.code == "draining"


async def test_kill_all_leaves_no_child_and_no_waiter(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    works = Works()
    works.spawn_seconds = 1
    async with open_world(works, prewarm=1, max_concurrent_sessions=3) as world:
        await trio.sleep(2)
        used = await take(world.pool, "c", None)
        await trio.sleep(2)
        [spawning, *waiting] = await seek(world, nursery, 4, origin=POINT)
        world.pool.kill_all()
        assert used.leave.is_set()
        await trio.sleep(5)
        assert world.pool.statistics().live == works.count == 0
        for seeker in waiting:
            assert seeker.error is not None
            assert seeker.error.code == "draining"
        assert spawning.child is not None
        assert spawning.child.gone.is_set()
        with pytest.raises(Overloaded):
            await take(world.pool, "c", None)
        assert len(works.began) == 3  # and none was started since


# --- whether children can be started --------------------------------------------------------------


async def test_a_program_that_is_missing_is_trouble_until_a_child_lives(
    autojump_clock: MockClock,
) -> None:
    works = Works()
    works.broken = CliUnusable("There is no CLI.", code="cli_not_found")
    async with open_world(works, prewarm=1) as world:
        with capture_logs() as lines:
            await trio.sleep(200)
        trouble = world.pool.trouble
        assert trouble is not None
        assert (trouble.status, trouble.code) == (503, "cli_not_found")
        assert trouble.headers() == {"x-should-retry": "false"}
        assert [line["event"] for line in lines] == ["no child could be started"]
        works.broken = None
        await trio.sleep(31 + SETTLED_SECONDS)
        assert world.pool.trouble is None


async def test_warm_children_that_die_are_trouble_and_logged_once(
    autojump_clock: MockClock,
) -> None:
    works = Works()
    async with open_world(works, prewarm=1) as world:
        works.at_birth = lambda: works.made[-1].die()
        with capture_logs() as lines:
            await trio.sleep(200)
        trouble = world.pool.trouble
        assert trouble is not None
        assert (trouble.status, trouble.code) == (503, "child_died")
        assert [line["event"] for line in lines] == ["a child died"]
        works.at_birth = int
        await trio.sleep(31 + SETTLED_SECONDS)
        assert world.pool.trouble is None


async def test_one_death_is_no_trouble(autojump_clock: MockClock) -> None:
    async with open_world(prewarm=1) as world:
        await world.settle()
        with capture_logs() as lines:
            world.works.made[0].die()
            await wait_all_tasks_blocked()
        assert world.pool.trouble is None
        assert [line["event"] for line in lines] == ["a child died"]


async def test_where_none_is_kept_warm_trouble_goes_by_itself(autojump_clock: MockClock) -> None:
    """Else `/ready` would keep away the turns that could find out."""
    works = Works()
    works.broken = CliUnusable("There is no CLI.", code="cli_not_found")
    async with open_world(works, prewarm=0) as world:
        with pytest.raises(CliUnusable):
            await take(world.pool, "c", None)
        assert world.pool.trouble is not None
        await trio.sleep(TROUBLE_SECONDS + 0.1)
        assert world.pool.trouble is None


async def test_what_concerns_one_conversation_is_no_trouble(autojump_clock: MockClock) -> None:
    works = Works()
    works.broken = ChildDied("Its workspace cannot be used.")
    async with open_world(works) as world:
        with pytest.raises(ChildDied):
            await take(world.pool, "c", POINT)
        assert world.pool.trouble is None


async def test_a_turn_that_was_done_ends_the_trouble(autojump_clock: MockClock) -> None:
    works = Works()
    async with open_world(works, prewarm=0) as world:
        child = await take(world.pool, "c", None)
        works.broken = CliUnusable("There is no CLI.", code="cli_not_found")
        with pytest.raises(CliUnusable):
            await take(world.pool, "d", None)
        rest(world.pool, child, child.retire)
        assert world.pool.trouble is None


# --- another login --------------------------------------------------------------------------------


async def test_after_a_renewal_no_older_child_is_used_for_another_turn(
    autojump_clock: MockClock,
) -> None:
    async with open_world(prewarm=1, max_concurrent_sessions=8) as world:
        await world.settle()
        busy = await take(world.pool, "busy", None)
        idle = await take(world.pool, "idle", None)
        waits = await take(world.pool, "waits", None)
        rest(world.pool, idle, idle.retire)
        rest(world.pool, waits, waits.retire, suspended=True)
        await world.settle()
        warm = world.works.made[-1]
        world.pool.renew()
        gone = [child.leave.is_set() for child in (warm, idle, busy, waits)]
        assert gone == [True, True, False, False]
        world.pool.withdraw(waits)  # its tools' results have come, and it goes on
        for child in (busy, waits):
            rest(world.pool, child, child.retire)
            assert child.leave.is_set()
        assert world.pool.statistics().idle == 0
        await world.settle()
        fresh = await take(world.pool, "fresh", None)
        assert fresh not in (warm, idle, busy, waits)
        rest(world.pool, fresh, fresh.retire)
        assert not fresh.leave.is_set()


async def test_a_warm_child_that_was_on_its_way_at_a_renewal_is_not_kept(
    autojump_clock: MockClock,
) -> None:
    works = Works()
    works.spawn_seconds = 5
    async with open_world(works, prewarm=1) as world:
        await trio.sleep(2)
        world.pool.renew()
        await trio.sleep(20)
        first, second = works.made
        assert first.leave.is_set()
        assert not second.leave.is_set()
        assert world.pool.trouble is None


async def test_no_child_is_sought_or_started_before_it_is_known_how(
    autojump_clock: MockClock,
) -> None:
    works, bus = Works(), Bus()
    known = trio.Event()
    settings = ClaudeSettings(prewarm=1, max_concurrent_sessions=3)
    async with run_pool(works.open_one, settings, bus, lambda _: known.wait()) as pool:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pool.acquire, "c", None)
            await trio.sleep(100)
            assert works.count == 0
            known.set()


async def test_where_no_child_may_start_a_session_gets_the_reason(
    autojump_clock: MockClock,
) -> None:
    works, bus = Works(), Bus()

    async def forbid(login: str) -> None:
        await trio.lowlevel.checkpoint()
        raise NotLoggedIn("Not with this login.")

    settings = ClaudeSettings(prewarm=1, max_concurrent_sessions=3)
    async with run_pool(works.open_one, settings, bus, forbid) as pool:
        with pytest.raises(NotLoggedIn):
            await pool.acquire("c", None)
        await trio.sleep(100)
        assert (works.count, pool.statistics().live) == (0, 0)
