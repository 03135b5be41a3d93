"""What clients send, as far as it is in memory: how much of it there may be, and where it is read.

Knows: bytes, whose they are, how long a request may wait for room, and threads. Refuses to know:
HTTP, WebSocket, and what any of the bytes mean.

Making objects of megabytes takes longer than others should wait for the event loop. So what is long
is read in a thread; a few of them, for they take the processor from each other.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import TypeVar

import trio

from ...schemas.errors import Overloaded

T = TypeVar("T")

LONG = 65536
"""Bytes from which on something is read in a thread. Fewer are read in a few milliseconds."""

READERS = 2
"""Threads that read at once."""

RESERVE = 8
"""Of the room, one part in so many is for what is not long: a few who send megabytes do not keep
out the many who do not."""

MEMORY_PER_BYTE = 5
"""Bytes of memory that a request may take for each byte of the room that it holds. Most take less
for each byte of their length; one that takes more holds more than its length."""

RETRY_AFTER = 5.0


class Bodies:
    """The room that all bodies and messages in flight share: `limit` bytes.

    A single one that is longer than the room, or its part of it, gets in alone. Who finds no room
    waits for `patience_seconds` in all, in the order of coming.
    """

    def __init__(self, limit: int, patience_seconds: float = 30.0) -> None:
        self.limit = limit
        self.taken = 0
        self._long_taken = 0
        self._patience_seconds = patience_seconds
        self._waiting: deque[tuple[Share, int, trio.Event]] = deque()
        self._readers = trio.CapacityLimiter(READERS)

    def __repr__(self) -> str:
        return f"<Bodies {self.taken} of {self.limit} bytes, {len(self._waiting)} waiting>"

    def share(self) -> Share:
        """A part of the room, nothing at first. Leaving its block gives it back."""
        return Share(self)

    async def read(self, length: int, read: Callable[[], T]) -> T:
        """What `read` makes of something of that length; in a thread, if it is long."""
        if length < LONG:
            return read()
        # Not given up when cancelled: no request would own what the thread holds.
        return await trio.to_thread.run_sync(read, limiter=self._readers)

    # -- for `Share` -------------------------------------------------------------------------------

    def fits(self, share: Share, count: int) -> bool:
        if self.taken + count > self.limit and self.taken > share.taken:
            return False
        if share.taken + count < LONG:
            return True
        others = self._long_taken - (share.taken if share.taken >= LONG else 0)
        return not others or others + share.taken + count <= self.limit - self.limit // RESERVE

    def change(self, share: Share, count: int) -> None:
        if share.taken >= LONG:
            self._long_taken -= share.taken
        share.taken += count
        self.taken += count
        if share.taken >= LONG:
            self._long_taken += share.taken

    async def wait(self, share: Share, count: int) -> None:
        entry = (share, count, trio.Event())
        self._waiting.append(entry)
        try:
            with trio.move_on_after(self._patience_seconds):
                await entry[2].wait()
        finally:
            if not entry[2].is_set():
                self._waiting.remove(entry)
                self.let_in()
        if not entry[2].is_set():
            raise Overloaded(
                "The requests under way hold as many bytes as all may together "
                "(server.max_bodies_bytes).",
                code="too_many_bytes",
                retry_after=RETRY_AFTER,
            )

    def let_in(self) -> None:
        """Give room to those who wait for it: in their order, but what is not long does
        not wait for what is."""
        blocked = False
        for entry in [*self._waiting]:
            share, count, let_in = entry
            is_long = share.taken + count >= LONG
            if (blocked and is_long) or not self.fits(share, count):
                blocked = True
                continue
            self._waiting.remove(entry)
            self.change(share, count)
            let_in.set()

    def has_queue(self) -> bool:
        return bool(self._waiting)


class Share:
    """What one request holds of the room, in bytes."""

    def __init__(self, bodies: Bodies) -> None:
        self._bodies = bodies
        self.taken = 0

    def __repr__(self) -> str:
        return f"<Share of {self.taken} bytes>"

    async def grow_to(self, count: int) -> None:
        """Hold at least `count` bytes. Raises `Overloaded` where there is no room for them in
        time."""
        more = count - self.taken
        if more <= 0:
            return
        bodies = self._bodies
        if bodies.fits(self, more) and (count < LONG or not bodies.has_queue()):
            bodies.change(self, more)
            return
        await bodies.wait(self, more)

    def hand_over(self) -> Share:
        """All of it, as another share; this one holds nothing any more."""
        other = Share(self._bodies)
        other.taken, self.taken = self.taken, 0
        return other

    def close(self) -> None:
        """Give all of it back. Idempotent."""
        if self.taken:
            self._bodies.change(self, -self.taken)
            self._bodies.let_in()

    def __enter__(self) -> Share:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
