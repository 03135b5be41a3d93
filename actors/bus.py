"""The event bus: publishing is synchronous and never blocks; a listener that lags loses events.

Knows: who subscribed, and how far behind each one is. Refuses to know: what an event means.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import trio
from attrs import define

from ..schemas.events import Event, EventsLost

BUFFER = 1024


@define(eq=False)
class Subscription:
    """One listener's end of the bus: iterate it to receive events, in the order published.

    After a gap the listener first gets `EventsLost` with the number it missed, then what follows.
    Iteration ends when the bus is closed and the buffer is empty.
    """

    _send: trio.MemorySendChannel[Event]
    _receive: trio.MemoryReceiveChannel[Event]
    lost: int = 0
    _untold: int = 0

    def __aiter__(self) -> Subscription:
        return self

    async def __anext__(self) -> Event:
        if self._untold and self._receive.statistics().current_buffer_used == 0:
            return self._tell_loss()
        try:
            return await self._receive.receive()
        except trio.EndOfChannel:
            if self._untold:
                return self._tell_loss()
            raise StopAsyncIteration from None

    def _tell_loss(self) -> EventsLost:
        count, self._untold = self._untold, 0
        return EventsLost(count)

    def _put(self, event: Event) -> None:
        try:
            if self._untold:
                # One slot for the news of the gap, so that order and loss are both told truly.
                self._send.send_nowait(EventsLost(self._untold))
                self._untold = 0
            self._send.send_nowait(event)
        except trio.WouldBlock:
            self.lost += 1
            self._untold += 1

    def _close(self) -> None:
        self._send.close()


class Bus:
    """Publishes events to every subscription, on the spot.

    A bus lives as long as the gateway that made it; `close` ends every subscription after what
    it has buffered.
    """

    def __init__(self) -> None:
        self._subscriptions: list[Subscription] = []
        self._closed = False

    def __repr__(self) -> str:
        return f"<Bus {len(self._subscriptions)} listeners{' closed' if self._closed else ''}>"

    def publish(self, event: Event) -> None:
        if self._closed:
            return
        for subscription in self._subscriptions:
            subscription._put(event)  # noqa: SLF001 (the two classes are one thing)

    @contextmanager
    def subscribe(self, buffer: int = BUFFER) -> Iterator[Subscription]:
        """Listen from now on, with room for `buffer` events that have not been read yet."""
        subscription = Subscription(*trio.open_memory_channel[Event](buffer))
        if self._closed:
            subscription._close()  # noqa: SLF001
        self._subscriptions.append(subscription)
        try:
            yield subscription
        finally:
            self._subscriptions.remove(subscription)
            subscription._close()  # noqa: SLF001

    def close(self) -> None:
        """No more events: listeners read what they have, then their iteration ends."""
        self._closed = True
        for subscription in self._subscriptions:
            subscription._close()  # noqa: SLF001
