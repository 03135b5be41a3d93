"""What the nodes of one store tell each other of changes, so that none has to look often.

Knows: who waits for a hint of which topic. Refuses to know: how one comes from another node, and
what has changed.

A hint may be lost, come late, or come for nothing: it says when to look, and who needs to know what
has changed looks now and then without one.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, get_args

import trio

Topic = Literal["keys", "batches"]
"""``keys``: API keys have changed. ``batches``: one is cancelled."""

TOPICS: tuple[Topic, ...] = get_args(Topic)


class Hints:
    """Those that come to one node."""

    def __init__(self) -> None:
        self._watched: dict[Topic, set[Hint]] = {topic: set() for topic in TOPICS}

    def __repr__(self) -> str:
        return f"<Hints {sum(map(len, self._watched.values()))} watched>"

    @contextmanager
    def watch(self, topic: Topic) -> Iterator[Hint]:
        """A hint that can be waited for while the block runs."""
        hint = Hint()
        self._watched[topic].add(hint)
        try:
            yield hint
        finally:
            self._watched[topic].discard(hint)

    def came(self, topic: str) -> None:
        """A hint of that topic has come; one that is not known is another version's."""
        for known in TOPICS:
            if known == topic:
                for hint in self._watched[known]:
                    hint.came()

    def missed(self) -> None:
        """Hints may have been lost: as if one of every topic came."""
        for topic in TOPICS:
            self.came(topic)


class Hint:
    """Made by `Hints.watch`."""

    def __init__(self) -> None:
        self._came = trio.Event()

    def came(self) -> None:
        self._came.set()

    async def wait(self, seconds: float) -> bool:
        """Wait until one has come since the last call, but no longer than that; whether it has."""
        with trio.move_on_after(seconds):
            await self._came.wait()
        has_come, self._came = self._came.is_set(), trio.Event()
        return has_come
