"""The restart budget: how often something may restart within a window before it has to wait.

Knows: points in time, in seconds. Refuses to know: clocks, and what restarts.
"""

from __future__ import annotations

import math
from collections import deque

RESTARTS = 3
WINDOW = 60.0


class RestartBudget:
    """`RESTARTS` in `WINDOW` seconds; after one more, room only once the oldest has aged out."""

    def __init__(self) -> None:
        self._spent: deque[float] = deque(maxlen=RESTARTS + 1)

    def spend(self, now: float) -> None:
        self._spent.append(now)

    def has_room(self, now: float) -> bool:
        return now >= self.free_at

    @property
    def free_at(self) -> float:
        """When there is room (again); in the past, or minus infinity, if there is."""
        return self._spent[0] + WINDOW if len(self._spent) > RESTARTS else -math.inf
