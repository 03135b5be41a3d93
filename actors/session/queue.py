"""The unfinished turns of one conversation: one is under way, the others wait behind it.

Knows: their order, how many may wait, which have had all their time. Refuses to know: phases, and
what it takes to have a turn under way (`actors.session.machine`).
"""

from __future__ import annotations

import math
from collections import deque

from ...schemas.errors import GatewayError
from ...schemas.turn import Memory, Outcome
from . import errors as refusals
from .events import Action, End
from .turn import TurnState


class TurnQueue:
    """First come, first served. At most `room` turns wait behind the one under way. `used`: when
    the last one ended."""

    def __init__(self, room: int, now: float) -> None:
        self.current: TurnState | None = None
        self.used = now
        self._room = room
        self._waiting: deque[TurnState] = deque()

    def __len__(self) -> int:
        return len(self._waiting) + (self.current is not None)

    def __repr__(self) -> str:
        current = self.current.turn_id if self.current else "none"
        return f"<TurnQueue current={current} waiting={len(self._waiting)}>"

    @property
    def due(self) -> float:
        """When the oldest has had all its time: a point in time, `math.inf` without turns."""
        oldest = self.current or next(iter(self._waiting), None)
        return math.inf if oldest is None else oldest.due

    @property
    def running(self) -> TurnState:
        """The one that is under way, where there must be one."""
        assert self.current is not None
        return self.current

    # -- in ----------------------------------------------------------------------------------------

    def refusal(self, *, reject_if_busy: bool) -> GatewayError | None:
        """Why one more turn cannot be taken on, if it cannot."""
        if reject_if_busy and len(self):
            return refusals.busy()
        if len(self) > self._room:
            return refusals.queue_full()
        return None

    def add(self, turn: TurnState) -> None:
        self._waiting.append(turn)

    def advance(self, memory: Memory) -> list[End]:
        """Make the one that waits longest the current one. Those that do not join on to
        `memory` never get there: they end."""
        assert self.current is None
        ends: list[End] = []
        while self._waiting and self.current is None:
            turn = self._waiting.popleft()
            refusal = turn.join(memory)
            if refusal is None:
                self.current = turn
            else:
                ends.append(turn.failed(refusal))
        return ends

    # -- out ---------------------------------------------------------------------------------------

    def end(self, outcome: Outcome, now: float) -> list[Action]:
        """The one under way is over."""
        turn, self.current, self.used = self.current, None, now
        assert turn is not None
        return [turn.ended(outcome)]

    def take_waiting(self, turn_id: str) -> TurnState | None:
        for turn in self._waiting:
            if turn.turn_id == turn_id:
                self._waiting.remove(turn)
                return turn
        return None

    def take_overdue(self, now: float) -> list[TurnState]:
        """Those that waited for all the time they had."""
        overdue = []
        while self._waiting and now >= self._waiting[0].due:
            overdue.append(self._waiting.popleft())
        return overdue

    def end_all(self, error: GatewayError, now: float) -> list[Action]:
        current = [] if self.current is None else [self.current]
        ended: list[Action] = [turn.failed(error) for turn in (*current, *self._waiting)]
        self.current, self.used = None, now
        self._waiting.clear()
        return ended
