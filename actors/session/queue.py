"""The unfinished turns of one conversation: one is under way, the others wait behind it.

Knows: their order, how many may wait, and which are overdue. Refuses to know: phases, and when a
turn may begin (`actors.session.machine`).
"""

from __future__ import annotations

import math
from collections import deque

from ...schemas.errors import GatewayError
from ...schemas.turn import Memory, Outcome
from . import errors
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
        """When the oldest turn has to end: a point in time, `math.inf` without turns."""
        oldest = self.current or next(iter(self._waiting), None)
        return math.inf if oldest is None else oldest.due

    @property
    def running(self) -> TurnState:
        """The turn under way, in a phase that has one."""
        assert self.current is not None
        return self.current

    # -- in ----------------------------------------------------------------------------------------

    def refusal(self, *, reject_if_busy: bool) -> GatewayError | None:
        """Why one more turn cannot be taken on, if it cannot."""
        if reject_if_busy and len(self):
            return errors.busy()
        if len(self) > self._room:
            return errors.queue_full()
        return None

    def add(self, turn: TurnState) -> None:
        self._waiting.append(turn)

    def advance(self, memory: Memory) -> list[End]:
        """Make the oldest waiting turn the current one. A turn whose messages do not continue
        `memory` ends instead."""
        assert self.current is None
        ends: list[End] = []
        while self._waiting and self.current is None:
            turn = self._waiting.popleft()
            error = turn.join(memory)
            if error is None:
                self.current = turn
            else:
                ends.append(turn.failed(error))
        return ends

    # -- out ---------------------------------------------------------------------------------------

    def end(self, outcome: Outcome, now: float) -> list[Action]:
        """End the turn under way. Invariant 2: no `Deliver` can name it any more."""
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
        """Take out the waiting turns that are overdue."""
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
