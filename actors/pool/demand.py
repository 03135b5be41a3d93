"""How many children should be ready ahead of their conversations, as far as the last minutes tell.

Knows: when children were needed that no emptied one could serve. Refuses to know: children, and
who starts them (`actors.pool.pool`).

Example: ``claude.prewarm`` is 2, and twice in the last minutes four conversations with unknown
system prompts began within a second. Then 4 are kept ready, until five minutes have passed without
such a burst.
"""

from __future__ import annotations

from collections import deque

REMEMBERED_SECONDS = 300.0
BURST_SECONDS = 2.0
"""What is needed within this time has to be ready together: a child boots in about half a second,
and two of them share two cores."""

MAX_NEEDS = 1000


class Demand:
    """Needs of prewarmed children. `floor` is how many there are at least."""

    def __init__(self, floor: int) -> None:
        self._floor = floor
        self._needs: deque[float] = deque(maxlen=MAX_NEEDS)

    def note(self, now: float) -> None:
        """A child is needed that is prewarmed, or new."""
        self._needs.append(now)

    def target(self, now: float, ceiling: int) -> int:
        """How many should be ready: the largest burst of the last minutes, between the floor and
        `ceiling`. With a floor of 0, none: the operator wants no child without a conversation."""
        if not self._floor:
            return 0
        while self._needs and self._needs[0] < now - REMEMBERED_SECONDS:
            self._needs.popleft()
        most, burst = 0, deque[float]()
        for need in self._needs:
            burst.append(need)
            while burst[0] < need - BURST_SECONDS:
                burst.popleft()
            most = max(most, len(burst))
        return max(self._floor, min(most, ceiling))
