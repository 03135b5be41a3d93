"""The event bus: publishing is synchronous and never blocks; a listener that lags loses events.

Knows: the subscriptions, and how far each one lags. Refuses to know: what an event means.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import get_args

import trio

from ...schemas.events import Event, EventsLost

BUFFER = 1024
ALL: frozenset[type[Event]] = frozenset(get_args(Event))


class Subscription:
    """One listener's end of the bus: iterate it to receive events, in the order published.

    `kinds` are the events that it takes; a listener that names them is not woken by others.

    A listener that lags by more than its buffer gets one `EventsLost`, with the number it missed,
    in the place of the missing events. Iteration ends when the subscription or the bus is
    closed and everything buffered has been read. `lost` counts all events ever missed.

    An event stays in the buffer until a task takes it, and taking it has no checkpoint in it: a
    loop over the subscription handles an event in the step in which it leaves the buffer. So
    another task of the same actor that calls `receive_nowait` until the buffer is empty knows that
    everything published before is handled. (A memory channel hands an item to a task that will run
    later; in between no task can see it.)
    """

    def __init__(self, buffer: int, kinds: frozenset[type[Event]] = ALL) -> None:
        self.kinds = kinds
        self._events: deque[Event] = deque()
        self._buffer = buffer
        self._closed = False
        self._changed = trio.Event()
        self.lost = 0

    def __repr__(self) -> str:
        lost = f" lost {self.lost}" if self.lost else ""
        closed = " closed" if self._closed else ""
        return f"<Subscription {len(self._events)}/{self._buffer}{lost}{closed}>"

    def __aiter__(self) -> Subscription:
        return self

    async def __anext__(self) -> Event:
        if await self.wait():
            return self._events.popleft()
        raise StopAsyncIteration

    async def wait(self) -> bool:
        """Wait until there is an event; False: the subscription is closed, and all is read."""
        await trio.lowlevel.checkpoint()
        while not (self._events or self._closed):
            if self._changed.is_set():
                self._changed = trio.Event()
            await self._changed.wait()
        return bool(self._events)

    def receive_nowait(self) -> Event:
        """The next event. Raises `trio.WouldBlock` when there is none yet, or, once closed,
        `trio.EndOfChannel`."""
        if self._events:
            return self._events.popleft()
        raise trio.EndOfChannel if self._closed else trio.WouldBlock

    def close(self) -> None:
        """Take no more events; what is buffered stays readable."""
        self._closed = True
        self._changed.set()

    def put_nowait(self, event: Event) -> None:
        """The bus's side: buffer `event`, or count it as lost."""
        if self._closed:
            return
        if len(self._events) < self._buffer:
            self._events.append(event)
        else:
            self._lose()
        self._changed.set()

    def _lose(self) -> None:
        # `EventsLost` stands where the gap is, and grows with it: one slot over the buffer.
        self.lost += 1
        match self._events[-1] if self._events else None:
            case EventsLost(count):
                self._events[-1] = EventsLost(count + 1)
            case _:
                self._events.append(EventsLost(1))


class Bus:
    """Publishes events to every subscription, synchronously.

    A bus lives as long as the gateway that made it; `close` ends every subscription after what
    it has buffered.
    """

    def __init__(self) -> None:
        self._subscriptions: list[Subscription] = []
        self._closed = False

    def __repr__(self) -> str:
        return f"<Bus {len(self._subscriptions)} listeners{' closed' if self._closed else ''}>"

    def publish(self, event: Event) -> None:
        """Give `event` to every subscription. After `close` there is none."""
        kind = type(event)
        for subscription in self._subscriptions:
            if kind in subscription.kinds:
                subscription.put_nowait(event)

    @contextmanager
    def subscribe(self, *kinds: type[Event], buffer: int = BUFFER) -> Iterator[Subscription]:
        """Listen to events of these kinds (none named: of all) from now on, with room for `buffer`
        events that have not been read yet."""
        subscription = Subscription(buffer, frozenset(kinds) or ALL)
        if self._closed:
            subscription.close()
        self._subscriptions.append(subscription)
        try:
            yield subscription
        finally:
            self._subscriptions.remove(subscription)
            subscription.close()

    def close(self) -> None:
        """No more events: listeners read what they have, then their iteration ends."""
        self._closed = True
        for subscription in self._subscriptions:
            subscription.close()
