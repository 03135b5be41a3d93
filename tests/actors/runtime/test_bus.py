"""The bus: publishing never waits, and a listener that lags gets the exact number it missed."""

from __future__ import annotations

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from ccapi.actors.runtime.bus import Bus, Subscription
from ccapi.schemas.events import ChildFrozen, ConversationClosed, Event, EventsLost


def told(subscription: Subscription) -> list[int | str]:
    """What is buffered: pids of events, and ``lost n`` where there is a gap."""
    seen: list[int | str] = []
    while True:
        try:
            event = subscription.receive_nowait()
        except (trio.WouldBlock, trio.EndOfChannel):
            return seen
        match event:
            case ChildFrozen(pid):
                seen.append(pid)
            case EventsLost(count):
                seen.append(f"lost {count}")


def publish(bus: Bus, *pids: int) -> None:
    for pid in pids:
        bus.publish(ChildFrozen(pid))


async def test_events_arrive_in_order_and_iteration_ends_after_what_is_buffered() -> None:
    bus = Bus()
    with bus.subscribe() as subscription:
        publish(bus, 1, 2, 3)
        bus.close()
        assert [event async for event in subscription] == [ChildFrozen(n) for n in (1, 2, 3)]


async def test_a_listener_that_names_kinds_is_not_woken_by_others() -> None:
    bus = Bus()
    with bus.subscribe(ConversationClosed, EventsLost, buffer=1) as some, bus.subscribe() as every:
        publish(bus, 1, 2)
        with trio.move_on_after(0) as scope:
            await some.wait()
        assert scope.cancelled_caught
        assert repr(some) == "<Subscription 0/1>"  # nor do they fill its buffer
        closed = ConversationClosed("conv_a", "deleted")
        bus.publish(closed)
        bus.publish(closed)
        assert [some.receive_nowait(), some.receive_nowait()] == [closed, EventsLost(1)]
        assert await every.wait()
        bus.close()
        assert not await some.wait()


async def test_a_waiting_listener_wakes_for_an_event_and_for_the_end() -> None:
    bus = Bus()
    seen: list[Event] = []

    async def listen(subscription: Subscription) -> None:
        async for event in subscription:
            seen.append(event)

    with bus.subscribe() as subscription:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(listen, subscription)
            await trio.testing.wait_all_tasks_blocked()
            publish(bus, 1)
            await trio.testing.wait_all_tasks_blocked()
            assert seen == [ChildFrozen(1)]
            bus.close()


async def test_a_lagging_listener_gets_the_number_it_lost_and_others_lose_nothing() -> None:
    bus = Bus()
    with bus.subscribe(buffer=2) as laggard, bus.subscribe() as other:
        publish(bus, 1, 2, 3, 4, 5)
        assert repr(laggard) == "<Subscription 3/2 lost 3>"
        assert told(laggard) == [1, 2, "lost 3"]
        publish(bus, 6)
        assert told(laggard) == [6]
        assert laggard.lost == 3
        assert told(other) == [1, 2, 3, 4, 5, 6]
        assert other.lost == 0


async def test_events_lost_stands_where_the_gap_is() -> None:
    bus = Bus()
    with bus.subscribe(buffer=3) as laggard:
        publish(bus, 1, 2, 3, 4)
        assert [laggard.receive_nowait(), laggard.receive_nowait()] == [
            ChildFrozen(1),
            ChildFrozen(2),
        ]
        publish(bus, 5)
        assert told(laggard) == [3, "lost 1", 5]


async def test_a_listener_that_is_always_behind_still_receives_events() -> None:
    """News of a gap must not take the room of every event that follows."""
    bus = Bus()
    with bus.subscribe(buffer=4) as laggard:
        publish(bus, *range(10))
        seen = 0
        for pid in range(10, 50):
            seen += isinstance(laggard.receive_nowait(), ChildFrozen)
            publish(bus, pid)
        assert seen > 30


async def test_events_lost_comes_even_when_nothing_follows() -> None:
    bus = Bus()
    with bus.subscribe(buffer=1) as laggard:
        publish(bus, 1, 2)
        bus.close()
        assert [event async for event in laggard] == [ChildFrozen(1), EventsLost(1)]


@settings(deadline=None)
@given(buffer=st.integers(1, 4), reads=st.lists(st.booleans(), max_size=60))
def test_every_event_is_received_or_counted_where_it_is_missing(
    buffer: int, reads: list[bool]
) -> None:
    """Published events are numbered from 0, so the position tells which one is due."""
    bus = Bus()
    due = published = 0
    with bus.subscribe(buffer=buffer) as subscription:

        def take(event: Event) -> None:
            nonlocal due
            match event:
                case ChildFrozen(pid):
                    assert pid == due
                    due += 1
                case EventsLost(count):
                    assert count > 0
                    due += count

        for read in reads:
            if not read:
                publish(bus, published)
                published += 1
            else:
                try:
                    take(subscription.receive_nowait())
                except trio.WouldBlock:
                    assert due == published
        bus.close()
        with pytest.raises(trio.EndOfChannel):
            while True:
                take(subscription.receive_nowait())
    assert due == published


async def test_an_event_leaves_the_buffer_in_the_step_that_handles_it() -> None:
    """So a second reader of the same actor never finds an event gone but not handled."""
    bus = Bus()
    handled: list[Event] = []

    async def listen(subscription: Subscription) -> None:
        async for event in subscription:
            handled.append(event)

    for _ in range(50):  # trio shuffles what is ready to run
        handled.clear()
        with bus.subscribe() as subscription:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(listen, subscription)
                await trio.testing.wait_all_tasks_blocked()
                publish(bus, 1)
                await trio.lowlevel.checkpoint()
                in_buffer = told(subscription)
                assert in_buffer == ([] if handled else [1])
                nursery.cancel_scope.cancel()


async def test_a_cancelled_wait_loses_nothing() -> None:
    bus = Bus()
    with bus.subscribe() as subscription:
        with trio.CancelScope() as scope:
            publish(bus, 1)
            scope.cancel()
            await anext(subscription)
        assert scope.cancelled_caught
        assert told(subscription) == [1]


async def test_two_tasks_that_wait_on_one_subscription_both_end() -> None:
    bus = Bus()

    async def drain(subscription: Subscription) -> None:
        async for _ in subscription:
            pass

    with trio.fail_after(5), bus.subscribe() as subscription:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(drain, subscription)
            nursery.start_soon(drain, subscription)
            await trio.testing.wait_all_tasks_blocked()
            publish(bus, 1)
            await trio.testing.wait_all_tasks_blocked()
            bus.close()


async def test_after_close_publishing_does_nothing_and_a_new_listener_ends_at_once() -> None:
    bus = Bus()
    with bus.subscribe() as early:
        bus.close()
        bus.close()
        publish(bus, 1)
        with trio.fail_after(5), bus.subscribe() as late:
            assert [event async for event in late] == []
        assert [event async for event in early] == []
    assert repr(bus) == "<Bus 0 listeners closed>"


async def test_a_listener_that_crashes_is_unsubscribed() -> None:
    bus = Bus()
    with bus.subscribe() as healthy:
        with pytest.raises(ZeroDivisionError), bus.subscribe() as broken:
            raise ZeroDivisionError
        assert repr(bus) == "<Bus 1 listeners>"
        publish(bus, 1)
        assert told(healthy) == [1]
        assert told(broken) == []
        assert broken.lost == 0


async def test_a_subscription_closed_by_its_listener_keeps_what_it_has() -> None:
    bus = Bus()
    with bus.subscribe() as subscription:
        publish(bus, 1)
        subscription.close()
        publish(bus, 2)
        assert [event async for event in subscription] == [ChildFrozen(1)]
        assert subscription.lost == 0
