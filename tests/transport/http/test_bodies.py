"""The room that all bodies in flight share."""

from __future__ import annotations

import threading

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from ccapi.schemas.errors import Overloaded
from ccapi.transport.http.bodies import LONG, Bodies

ROOM = 16 * LONG


async def test_a_share_is_given_back() -> None:
    bodies = Bodies(ROOM)
    with bodies.share() as share:
        await share.grow_to(3 * LONG)
        await share.grow_to(2 * LONG)  # holds more already
        assert (share.taken, bodies.taken) == (3 * LONG, 3 * LONG)
        share.close()
        assert bodies.taken == 0
        await share.grow_to(LONG)
    assert bodies.taken == 0


async def test_who_finds_no_room_waits_in_order() -> None:
    bodies, order = Bodies(ROOM), []

    async def take(name: str, count: int) -> None:
        with bodies.share() as share:
            await share.grow_to(count)
            order.append(name)
            await done.wait()

    done = trio.Event()
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            first = bodies.share()
            await first.grow_to(14 * LONG)
            for name, count in [("large", 12 * LONG), ("less", 4 * LONG)]:
                nursery.start_soon(take, name, count)
                await wait_all_tasks_blocked()
            assert order == []
            nursery.start_soon(take, "short", 100)  # there is always room for these
            await wait_all_tasks_blocked()
            assert order == ["short"]
            first.close()
            await wait_all_tasks_blocked()
            assert order == ["short", "large"]
            done.set()
    assert order == ["short", "large", "less"]
    assert bodies.taken == 0


async def test_patience_ends_with_a_503(autojump_clock: MockClock) -> None:
    bodies = Bodies(ROOM, patience_seconds=7)
    with bodies.share() as first, bodies.share() as second:
        await first.grow_to(14 * LONG)
        begun = trio.current_time()
        with pytest.raises(Overloaded) as caught:
            await second.grow_to(LONG)
        assert trio.current_time() - begun == pytest.approx(7)
        assert caught.value.retry_after
        assert second.taken == 0
        assert repr(bodies) == f"<Bodies {14 * LONG} of {ROOM} bytes, 0 waiting>"


async def test_a_waiter_that_gives_up_makes_way_for_those_behind() -> None:
    bodies = Bodies(ROOM)
    with trio.fail_after(5), bodies.share() as first:
        await first.grow_to(10 * LONG)
        async with trio.open_nursery() as nursery:
            got = trio.Event()

            async def impatient(task_status: trio.TaskStatus[trio.CancelScope]) -> None:
                with trio.CancelScope() as scope, bodies.share() as share:
                    task_status.started(scope)
                    await share.grow_to(12 * LONG)

            async def behind() -> None:
                with bodies.share() as share:
                    await share.grow_to(2 * LONG)
                    got.set()

            scope = await nursery.start(impatient)
            await wait_all_tasks_blocked()
            nursery.start_soon(behind)
            await wait_all_tasks_blocked()
            assert not got.is_set()
            scope.cancel()
            await got.wait()
    assert bodies.taken == 0


async def test_one_that_is_longer_than_the_room_gets_in_alone() -> None:
    bodies = Bodies(ROOM, patience_seconds=0)
    with bodies.share() as first, bodies.share() as second:
        await first.grow_to(2 * ROOM)
        for count in (1, LONG):
            with pytest.raises(Overloaded):
                await second.grow_to(count)
        first.close()
        await second.grow_to(LONG)


async def test_long_ones_are_read_in_a_few_threads() -> None:
    bodies, here = Bodies(ROOM), threading.get_ident()
    assert await bodies.read(LONG - 1, threading.get_ident) == here
    busy, most = 0, 0
    lock = threading.Lock()

    def work() -> int:
        nonlocal busy, most
        with lock:
            busy += 1
            most = max(most, busy)
        threading.Event().wait(0.05)
        with lock:
            busy -= 1
        return threading.get_ident()

    async def read() -> None:
        assert await bodies.read(LONG, work) != here

    async with trio.open_nursery() as nursery:
        for _ in range(6):
            nursery.start_soon(read)
    assert most == 2

    def fail() -> None:
        raise Overloaded("from in there")

    with pytest.raises(Overloaded, match="from in there"):
        await bodies.read(LONG, fail)
