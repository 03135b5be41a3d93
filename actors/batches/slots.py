"""When a request of a batch may begin: so many at once, the keys in turns.

Knows: who waits, and how many run. Refuses to know: why there is no room (`may_begin`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from contextlib import suppress

import trio

LOOK_SECONDS = 0.02
"""How often it is looked whether there is room, while a request waits for nothing else."""


class Slots:
    """`limit`: how many may run at once. `may_begin`: whether there is room for a turn of this key
    besides those of clients."""

    def __init__(self, limit: int, may_begin: Callable[[str], bool]) -> None:
        self.limit = limit
        self.running = 0
        self.busy = 0
        """Slots that are not closed: what ran in some is still to be put down."""
        self._quiet = trio.Event()
        self._may_begin = may_begin
        self._waiting: dict[str, deque[trio.Event]] = {}  # the key whose turn it is first
        self._more = trio.Event()

    def __repr__(self) -> str:
        waiting = sum(map(len, self._waiting.values()))
        return f"<Slots {self.running} of {self.limit}, {waiting} waiting>"

    async def take(self, owner: str) -> Slot:
        """Wait for a slot; it has to be closed."""
        event = trio.Event()
        self._waiting.setdefault(owner, deque()).append(event)
        self._serve()
        try:
            await event.wait()
        except BaseException:
            if event.is_set():
                Slot(self).close()
            else:
                self._forget(owner, event)
            raise
        return Slot(self)

    def _forget(self, owner: str, event: trio.Event) -> None:
        queue = self._waiting.get(owner)
        if queue is not None:
            with suppress(ValueError):
                queue.remove(event)
            if not queue:
                del self._waiting[owner]

    def free(self) -> None:
        """For `Slot`."""
        self.running -= 1
        self._serve()

    def _serve(self) -> None:
        while self.running < self.limit:
            owner = next((each for each in self._waiting if self._may_begin(each)), None)
            if owner is None:
                break
            queue = self._waiting.pop(owner)
            self.running += 1
            self.busy += 1
            queue.popleft().set()
            if queue:
                self._waiting[owner] = queue  # behind the others
        if self._waiting:
            self._more.set()

    def close_one(self) -> None:
        """For `Slot`."""
        self.busy -= 1
        if not self.busy:
            self._quiet.set()
            self._quiet = trio.Event()

    async def wait_quiet(self) -> None:
        """Wait until no slot is taken."""
        while self.busy:
            await self._quiet.wait()

    async def run(self) -> None:
        """Look again and again, while any wait."""
        while True:
            await self._more.wait()
            self._more = trio.Event()
            await trio.sleep(LOOK_SECONDS)
            self._serve()


class Slot:
    """A place of `Slots`. Both methods may be called more than once."""

    def __init__(self, slots: Slots) -> None:
        self._slots = slots
        self._is_free = self._is_closed = False

    def free(self) -> None:
        """Another request may begin."""
        if not self._is_free:
            self._is_free = True
            self._slots.free()

    def close(self) -> None:
        """Nothing is left to be done."""
        self.free()
        if not self._is_closed:
            self._is_closed = True
            self._slots.close_one()
