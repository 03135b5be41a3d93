"""The present child, as its session's machine knows it: what it was told, and what it owes.

Knows: the setup it took, the control requests it has not answered, its signs of life, its bill.
Refuses to know: phases, turns, and the process behind it (`transport.child`).
"""

from __future__ import annotations

from attrs import define, evolve

from ..schemas import frames
from ..schemas.frames import ControlAnswer, ControlAsked, TurnResult
from ..schemas.turn import Setup, Usage
from .signals import Write

INITIALIZE = "initialize"


@define(eq=False)
class ChildState:
    """A child from the moment it is ready until it is gone. Times are points in time, in seconds.

    `heard` is its last sign of life, or when it was last given something to do; `billed` the part
    of its running total that was told already, in US dollars.
    """

    setup: Setup
    ready: float
    heard: float
    billed: float
    initialized: bool = False
    frozen: bool = False
    rewinding: str | None = None

    # -- what it is told ---------------------------------------------------------------------------

    def write(self, line: bytes) -> Write:
        self.frozen = False
        return Write(line)

    def initialize(self) -> Write:
        return self.write(frames.initialize(INITIALIZE, self.setup))

    def rewind(self, user_uuid: str) -> Write:
        self.rewinding = f"rewind {user_uuid}"
        return self.write(frames.rewind(self.rewinding, user_uuid))

    def refuse(self, asked: ControlAsked) -> Write:
        """It asks for something that nobody here serves, and waits for an answer."""
        reason = f"{asked.subtype} is not served here"
        return self.write(frames.refuse(asked.request_id, reason))

    # -- what it answers ---------------------------------------------------------------------------

    def awaits_setup(self, answer: ControlAnswer) -> bool:
        return not self.initialized and answer.request_id == INITIALIZE

    def awaits_rewind(self, answer: ControlAnswer) -> bool:
        return answer.request_id == self.rewinding

    def bill(self, result: TurnResult) -> Usage:
        """The usage of the turn that `result` ends, with its share of the running total.

        A child that resumes may go on with the total of its session or begin at zero: which one
        depends on how its predecessor ended. A total below what was billed has begun anew.
        """
        total = result.total_cost_usd
        cost = total - self.billed if total >= self.billed else total
        self.billed = total
        return evolve(result.usage, cost_usd=cost)
