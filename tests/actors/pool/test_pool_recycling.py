"""Which child serves a session that has none: the cheapest that can."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from attrs import define, field
from trio.testing import MockClock, wait_all_tasks_blocked

from ccapi.actors.pool import pool as pool_module
from ccapi.actors.session.events import Wants
from ccapi.schemas.errors import RateLimited
from ccapi.schemas.turn import Setup
from ccapi.transport.process.child import Child
from tests.support.pool_world import POINT, HandMade, Holds, Seeker, World, open_world

SOON = 0.05
BRIEF, KIND = "Be brief.", "Be kind."


def wants(prompt: str = BRIEF, *digests: bytes) -> Wants:
    return Wants(Setup("sonnet", prompt), digests)


@define(eq=False)
class Lender:
    """A session that has a child and rests. `asked`: how much of it the pool wants left."""

    world: World
    child: Child
    state: Holds
    asked: list[int | None] = field(factory=list)

    def offer(self, **how: Any) -> None:
        self.world.pool.offer(self.child, self.give_way, self.state, **how)

    def give_way(self, keep: int | None) -> None:
        self.asked.append(keep)
        if keep is None:
            self.child.retire()

    def release(self) -> None:
        keep = self.asked[-1]
        assert keep is not None
        self.state.messages = self.state.messages[:keep]
        self.state.served += 1
        self.world.pool.take_back(self.child, self.state)


async def lender(
    world: World, prompt: str = BRIEF, *digests: bytes, owner: str = "", **offer: bool
) -> Lender:
    """A conversation has got a child, been answered, and rests."""
    lent = await world.pool.acquire("other", None, wants(prompt, *digests), owner)
    learnt = (prompt, *lent.ready.palette)
    made = Lender(world, lent.child, Holds(learnt, digests))
    made.offer(**offer)
    return made


async def seeker(
    world: World, nursery: trio.Nursery, wanted: Wants, owner: str = "", origin: Any = None
) -> Seeker:
    made = Seeker(world, nursery, origin, wanted, owner)
    await wait_all_tasks_blocked()
    return made


def source(seeker: Seeker) -> str:
    assert seeker.lent is not None, seeker.error
    return seeker.lent.ready.source


async def test_an_idle_child_that_knows_the_prompt_is_emptied(autojump_clock: MockClock) -> None:
    async with open_world(prewarm=1) as world, trio.open_nursery() as nursery:
        await world.settle()
        first = await lender(world, BRIEF, b"a")
        await trio.sleep(10)
        assert world.pool.statistics().warm == 1, "there is a warm one too"
        second = await seeker(world, nursery, wants(BRIEF, b"b"))
        assert first.asked == [0]
        assert not second.got.is_set(), "not before the child has been released"
        first.release()
        await second.got.wait()
        assert (second.child, source(second)) == (first.child, "recycled")
        assert second.lent is not None
        assert second.lent.ready.state is first.state
        assert world.pool.statistics().warm == 1


async def test_an_unknown_prompt_takes_a_warm_child_that_learns_what_is_used(
    autojump_clock: MockClock,
) -> None:
    async with open_world(prewarm=1) as world, trio.open_nursery() as nursery:
        await world.settle()
        first = await lender(world, BRIEF)
        await trio.sleep(10)
        second = await seeker(world, nursery, wants(KIND))
        assert source(second) == "prewarmed"
        assert second.lent is not None
        assert set(second.lent.ready.palette) == {BRIEF, KIND}
        assert first.asked == []


async def test_a_child_of_another_key_is_left_alone(autojump_clock: MockClock) -> None:
    async with open_world() as world, trio.open_nursery() as nursery:
        first = await lender(world, owner="ada")
        second = await seeker(world, nursery, wants(), "eve")
        await second.got.wait()
        assert source(second) == "new"
        assert first.asked == []
        assert second.lent is not None
        assert second.lent.ready.palette == (BRIEF,), "what it asked for itself"


async def test_one_tenant_may_share_all(autojump_clock: MockClock) -> None:
    async with open_world(recycle="all") as world, trio.open_nursery() as nursery:
        first = await lender(world, owner="ada")
        await seeker(world, nursery, wants(), "eve")
        assert first.asked == [0]
        first.release()


async def test_recycling_can_be_switched_off(autojump_clock: MockClock) -> None:
    async with open_world(recycle="off") as world, trio.open_nursery() as nursery:
        first = await lender(world)
        second = await seeker(world, nursery, wants())
        await second.got.wait()
        assert source(second) == "new"
        assert first.asked == []
        assert second.lent is not None
        assert second.lent.ready.palette == ()


async def test_a_common_beginning_is_left_in_the_child(autojump_clock: MockClock) -> None:
    async with open_world() as world, trio.open_nursery() as nursery:
        little = await lender(world, BRIEF, b"a", b"x")
        world.pool.withdraw(little.child)  # it works, while the other conversation begins
        much = await lender(world, BRIEF, b"a", b"b", b"c")
        little.offer()
        third = await seeker(world, nursery, wants(BRIEF, b"a", b"b", b"d"))
        assert (little.asked, much.asked) == ([], [2])
        much.release()
        await third.got.wait()
        assert source(third) == "prefix"


async def test_a_long_history_takes_a_prefix_where_the_rest_is_short(
    autojump_clock: MockClock,
) -> None:
    said = [bytes([number]) for number in range(80)]
    async with open_world() as world, trio.open_nursery() as nursery:
        long = await lender(world, BRIEF, *said[:70])
        second = await seeker(world, nursery, wants(BRIEF, *said), origin=POINT)
        assert long.asked == [70]
        long.release()
        await second.got.wait()
        short = await lender(world, BRIEF, *said[:10])
        third = await seeker(world, nursery, wants(BRIEF, *said), origin=POINT)
        await third.got.wait()
        assert (source(third), short.asked) == ("new", [])


async def test_a_valued_child_goes_only_where_no_place_is_free(autojump_clock: MockClock) -> None:
    async with open_world(max_concurrent_sessions=2) as world, trio.open_nursery() as nursery:
        valued = await lender(world, valued=True)
        second = await seeker(world, nursery, wants())
        await second.got.wait()
        assert (source(second), valued.asked) == ("new", [])
        third = await seeker(world, nursery, wants())
        assert valued.asked == [0], "it is emptied, and not ended"
        valued.release()
        await third.got.wait()
        assert source(third) == "recycled"


# -- time slices ----------------------------------------------------------------------------------


@pytest.mark.parametrize("suspended", [False, True])
async def test_a_child_stays_for_a_turn_that_is_expected_at_once(
    autojump_clock: MockClock, suspended: bool
) -> None:
    async with open_world(max_concurrent_sessions=1) as world, trio.open_nursery() as nursery:
        first = await lender(world)
        world.pool.withdraw(first.child)  # its session's turn
        second = await seeker(world, nursery, wants())
        first.offer(expected=SOON, suspended=suspended)
        await trio.sleep(SOON / 2)
        assert world.pool.statistics().idle == 1
        world.pool.withdraw(first.child)  # the turn that was expected
        await trio.sleep(SOON)
        assert first.asked == []
        first.offer(expected=SOON, suspended=suspended)
        await trio.sleep(SOON * 1.1)
        assert first.asked == [0]  # no turn came
        first.release()
        await second.got.wait()
        assert source(second) == "recycled"


async def test_a_slice_ends_however_fast_the_turns_come(autojump_clock: MockClock) -> None:
    async with open_world(max_concurrent_sessions=1) as world, trio.open_nursery() as nursery:
        first = await lender(world)
        world.pool.withdraw(first.child)
        await seeker(world, nursery, wants())
        began, turns = trio.current_time(), 0
        while not first.asked:
            await trio.sleep(0.3)  # its turn
            first.offer(expected=SOON)
            if not first.asked:
                await trio.sleep(0.01)
                world.pool.withdraw(first.child)
            turns += 1
        assert turns > 4
        assert trio.current_time() - began < pool_module.SLICE_SECONDS + 0.5
        first.release()


async def test_a_child_of_an_old_login_has_no_slice(autojump_clock: MockClock) -> None:
    async with open_world(max_concurrent_sessions=1) as world, trio.open_nursery() as nursery:
        first = await lender(world)
        world.pool.withdraw(first.child)
        await seeker(world, nursery, wants())
        first.offer(expected=SOON)
        world.pool.renew()
        await trio.sleep(SOON * 1.1)
        assert first.asked == [None]


async def test_one_that_waits_for_tools_is_emptied_last(autojump_clock: MockClock) -> None:
    async with open_world(max_concurrent_sessions=2) as world, trio.open_nursery() as nursery:
        suspended = await lender(world, suspended=True)
        idle = await lender(world, valued=True)
        await seeker(world, nursery, wants())
        assert (suspended.asked, idle.asked) == ([], [0])
        await seeker(world, nursery, wants())
        assert suspended.asked == [0]
        idle.release()
        suspended.release()


async def test_a_child_that_would_not_be_released_gives_its_place(
    autojump_clock: MockClock,
) -> None:
    async with open_world(max_concurrent_sessions=1) as world, trio.open_nursery() as nursery:
        first = await lender(world)
        second = await seeker(world, nursery, wants())
        assert first.asked == [0]
        first.child.kill()
        await second.got.wait()
        assert source(second) == "new"


async def test_a_waiter_that_leaves_leaves_the_child_to_others(autojump_clock: MockClock) -> None:
    async with open_world(max_concurrent_sessions=1) as world, trio.open_nursery() as nursery:
        first = await lender(world)
        second = await seeker(world, nursery, wants())
        second.scope.cancel()
        await wait_all_tasks_blocked()
        first.release()
        assert world.pool.statistics().idle == 1
        third = await seeker(world, nursery, wants())
        assert (third.child, source(third)) == (first.child, "recycled")


async def test_a_session_in_the_queue_gets_the_child_that_comes_to_rest(
    autojump_clock: MockClock,
) -> None:
    async with open_world(max_concurrent_sessions=1) as world, trio.open_nursery() as nursery:
        busy = await lender(world)
        world.pool.withdraw(busy.child)
        second = await seeker(world, nursery, wants())
        assert busy.asked == []
        busy.offer(valued=True)
        assert busy.asked == [0]
        busy.release()
        await second.got.wait()
        assert source(second) == "recycled"


async def test_the_queue_still_has_an_end(autojump_clock: MockClock) -> None:
    async with open_world(max_concurrent_sessions=1, queue_timeout_seconds=3) as world:
        async with trio.open_nursery() as nursery:
            first = await lender(world)
            second = await seeker(world, nursery, wants())
            await second.got.wait()
            assert isinstance(second.error, RateLimited), "the release was never answered"
            first.child.kill()


@pytest.mark.parametrize(
    ("settings", "memory"), [({"recycle_limit": 1}, 0), ({"max_child_bytes": 1000}, 2000)]
)
async def test_a_worn_child_is_replaced(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any],
    memory: int,
) -> None:  # fmt: skip
    monkeypatch.setattr(pool_module, "resident_bytes", lambda _: memory)
    async with open_world(max_concurrent_sessions=1, **settings) as world:
        async with trio.open_nursery() as nursery:
            first = await lender(world)
            second = await seeker(world, nursery, wants())
            first.release()
            await second.got.wait()
            assert source(second) == "new"
            assert first.child.leave.is_set()


async def test_a_free_child_is_frozen_and_does_not_stay_for_ever(autojump_clock: MockClock) -> None:
    async with open_world(freeze_after_seconds=30, hibernate_after_seconds=300) as world:
        first = await lender(world)
        async with trio.open_nursery() as nursery:
            waits = await seeker(world, nursery, wants())
            waits.scope.cancel()
        first.release()
        await trio.sleep(31)
        assert first.child.frozen
        await trio.sleep(300)
        assert first.child.leave.is_set()
        assert world.pool.statistics().live == 0


async def test_a_free_child_that_has_just_died_is_not_lent(autojump_clock: MockClock) -> None:
    async with open_world() as world, trio.open_nursery() as nursery:
        first = await lender(world)
        waits = await seeker(world, nursery, wants())
        waits.scope.cancel()
        await wait_all_tasks_blocked()
        first.release()
        assert isinstance(first.child, HandMade)
        first.child.die()  # its keeper has not seen it yet
        lent = await world.pool.acquire("next", None, wants())
        assert lent.child is not first.child


async def test_the_next_warm_child_boots_when_no_child_works(autojump_clock: MockClock) -> None:
    async with open_world(prewarm=2) as world, trio.open_nursery() as nursery:
        await world.settle()
        busy = await seeker(world, nursery, wants())
        await trio.sleep(1)
        assert len(world.works.began) == 2
        assert busy.child is not None
        world.pool.offer(busy.child, lambda _: None, Holds((BRIEF,)))
        await trio.sleep(0.1)
        assert len(world.works.began) == 3


async def test_an_empty_reserve_is_filled_at_once(autojump_clock: MockClock) -> None:
    async with open_world(prewarm=1) as world, trio.open_nursery() as nursery:
        await world.settle()
        await seeker(world, nursery, wants())
        await trio.sleep(1)
        assert len(world.works.began) == 2
