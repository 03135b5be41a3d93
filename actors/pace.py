"""How fast places come free, for a retry-after that is true.

Knows: when a place came free, and how long ago. Refuses to know: what the places are. Pure: times
are given, in seconds.
"""

from __future__ import annotations

from attrs import define


@define
class Pace:
    """The pace at which places have come free of late."""

    interval: float | None = None
    last: float | None = None

    def released(self, now: float) -> None:
        if self.last is not None:
            gap = now - self.last
            self.interval = gap if self.interval is None else 0.7 * self.interval + 0.3 * gap
        self.last = now

    def expect(self, position: int, now: float, fallback: float) -> float:
        """When the one at `position` (from 1) in the queue may count on a place."""
        if self.interval is None or self.last is None:
            return fallback
        # A place that is overdue shows that the pace has slowed down.
        return position * max(self.interval, now - self.last, 1.0)
