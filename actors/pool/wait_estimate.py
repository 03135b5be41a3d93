"""How fast places come free, for a retry-after that is true.

Knows: how long places are used, of late and at this moment. Refuses to know: what the places are.
Pure: times are given, in seconds.

Only use counts. When places came free would tell of the demand too, and after a quiet hour the
next one who waits would be told of an hour.
"""

from __future__ import annotations

from attrs import define, field

MOMENT = 0.01
"""A shorter use is none: an idle place is called in use for a step before it is given up."""


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
        """There is no such place any more. What was not released tells nothing."""
        self._since.pop(place, None)

    def expect(self, position: int, now: float, fallback: float) -> float:
        """Seconds after which the one at `position` (from 1) in the queue may count on a place.

        While all places are in use, one comes free every ``use / places`` seconds on average. A
        second at least, and `fallback` while no use has ended.
        """
        if self._usual is None:
            return fallback
        # Uses that already last longer than is usual show that the pace has slowed down.
        lasted = sum(now - since for since in self._since.values()) / max(1, len(self._since))
        use = min(self.longest, max(self._usual, lasted))
        return max(1.0, position * use / self.places)
