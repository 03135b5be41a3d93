"""The pool under any order of events: no waiter is forgotten, no place is lost or lent twice."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.support.pool_world import POINT, Seeker, World, open_world

STEPS = st.lists(
    st.tuples(
        st.sampled_from(
            ["acquire", "acquire", "resume", "cancel", "kill", "retire", "die", "offer", "use"]
        ),
        st.integers(0, 9),
        st.sampled_from([0.0, 0.0, 0.004, 0.01, 0.1, 1.0, 20.0]),
    ),
    max_size=60,
)


def consistent(world: World) -> None:
    """What holds whenever every task waits."""
    pool, works = world.pool, world.works
    figures = pool.statistics()
    assert figures.live == works.count <= figures.limit
    assert figures.warm <= 2
    assert pool._children == set(works.alive)
    assert pool._making_way <= pool._children
    assert set(pool._warm) <= pool._children
    assert set(pool._idle) <= pool._children
    if figures.waiting:
        assert figures.live == figures.limit, "someone waits beside a free place"
        unprovided = figures.waiting > len(pool._making_way)
        assert not (unprovided and (figures.warm or figures.idle)), "unused room is kept from them"


async def _play(steps: list[tuple[str, int, float]], limit: int, prewarm: int) -> None:
    async with (
        trio.open_nursery() as nursery,
        open_world(max_concurrent_sessions=limit, prewarm=prewarm, max_waiting_turns=4) as world,
    ):
        seekers: list[Seeker] = []
        for order, number, pause in steps:
            held = [s.child for s in seekers if s.child and not s.child.leave.is_set()]
            child = held[number % len(held)] if held else None
            match order:
                case "acquire" | "resume":
                    origin = POINT if order == "resume" else None
                    seekers.append(Seeker(world, nursery, origin))
                case "cancel" if seekers:
                    seeker = seekers[-1 - number % len(seekers)]
                    if not seeker.got.is_set():
                        seeker.scope.cancel()
                case "kill" if child:
                    child.kill()
                case "retire" if child:
                    child.retire()
                case "die" if world.works.alive:
                    world.works.alive[number % len(world.works.alive)].die()
                case "offer" if child:
                    world.pool.withdraw(child)
                    world.pool.offer(child, child.retire)
                case "use" if child:
                    world.pool.withdraw(child)
            if pause:
                await trio.sleep(pause)
                await wait_all_tasks_blocked()
                consistent(world)
        await trio.sleep(31)  # the longest that anyone waits
        consistent(world)
        for seeker in seekers:
            assert seeker.got.is_set() or seeker.scope.cancel_called
            if seeker.child is not None:
                seeker.child.kill()
        await trio.sleep(31)
        consistent(world)
        figures = world.pool.statistics()
        assert figures.waiting == figures.idle == 0
        assert figures.live == figures.warm == min(prewarm, limit)


@settings(max_examples=200, deadline=None)
@given(STEPS, st.integers(1, 4), st.integers(0, 2))
def test_in_any_order_nothing_is_lost_and_nothing_is_stuck(
    steps: list[tuple[str, int, float]], limit: int, prewarm: int
) -> None:
    play: Callable[..., Any] = _play
    clock = MockClock(autojump_threshold=0)
    trio.run(play, steps, limit, min(prewarm, limit), clock=clock)
