"""How fast places come free: the `retry-after` of a 429.

Knows: how long places are in use, on average and now. Refuses to know: what the places are. Pure:
times are arguments, in seconds.

The estimate counts time in use only. The intervals between free places would depend on demand too:
after a quiet hour they would suggest that a place takes an hour.
"""

from __future__ import annotations

from attrs import define, field

MOMENT = 0.01
"""A shorter use does not count: a place that is given up counts as in use for one step."""


@define
class WaitEstimate:
    """How long `places` places are used. No use counts for more than `longest`."""

    places: int
    longest: float
    _usual: float | None = None
    _since: dict[object, float] = field(factory=dict)

    def taken(self, place: object, now: float) -> None:
        self._since[place] = now

    def released(self, place: object, now: float) -> None:
        """The use of `place` is over, if it was in use."""
        used = now - self._since.pop(place, now)
        if used >= MOMENT:
            self._usual = used if self._usual is None else 0.7 * self._usual + 0.3 * used

    def forget(self, place: object) -> None:
        """The place is gone. A use that was not released does not count."""
        self._since.pop(place, None)

    def expect(self, position: int, now: float, fallback: float) -> float:
        """Seconds until the waiter at `position` (from 1) in the queue gets a place, on average.

        While all places are in use, one comes free every ``use / places`` seconds on average. At
        least one second; `fallback` while no use has ended.
        """
        if self._usual is None:
            return fallback
        # Present uses that last longer than usual show that places now come free more slowly.
        lasted = sum(now - since for since in self._since.values()) / max(1, len(self._since))
        use = min(self.longest, max(self._usual, lasted))
        return max(1.0, position * use / self.places)
