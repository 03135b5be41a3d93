"""What the turns of one conversation cost, out of the running totals of its CLI sessions.

Knows: how a total continues from one child to the next. Refuses to know: turns, and who gets the
figures.

The CLI's result has the usage of the turn's own calls, without those of an agent's subagents; and
the total of its session, which has all of them. So what a turn cost is a difference of totals.
A child that resumes continues the total that its predecessor saved when it exited by itself. A
killed child saves none, and the total continues from the last saved one.

Source: measured on the real CLI; tests/contract/test_usage.py has one test per fact.
"""

from __future__ import annotations

from collections.abc import Sequence

from attrs import define

from ...schemas.claude.output import TurnResult
from ...schemas.turn import Usage

NOTHING = Usage()


@define(eq=False)
class Ledger:
    """The totals of a conversation's CLI session. `seen` is the last one reported, `saved` the last
    one of a child that exited by itself; `is_saved`: the last child did."""

    session_id: str = ""
    seen: Usage = NOTHING
    saved: Usage = NOTHING
    is_saved: bool = False

    def bases(self, session_id: str | None) -> Sequence[Usage]:
        """The totals from which the next child may continue, the likeliest first. `session_id`: the
        session that it resumes; empty for a session that this ledger has not seen."""
        if session_id is None:
            return (NOTHING,)
        if session_id != self.session_id:
            return ()
        known = (self.seen, self.saved) if self.is_saved else (self.saved, self.seen)
        return (*known, NOTHING)

    def share(self, result: TurnResult, bases: Sequence[Usage]) -> Usage | None:
        """The cost of the turn that `result` ends, whose total continues one of the `bases`. None:
        it cannot be known."""
        if result.total is None:
            return None
        if result.session_id != self.session_id:
            self.session_id, self.saved = result.session_id, NOTHING
        self.seen, self.is_saved = result.total, False
        shares = (result.total - base for base in bases if base.cost_usd <= result.total.cost_usd)
        return next((share for share in shares if _covers(share, result.usage)), None)

    def close(self) -> None:
        """The child exits by itself, and saves its total."""
        self.saved, self.is_saved = self.seen, True


def _covers(share: Usage, usage: Usage) -> bool:
    """Whether a turn whose own calls took `usage` can have taken `share` in all."""
    return (
        share.prompt_tokens >= usage.prompt_tokens
        and share.completion_tokens >= usage.completion_tokens
    )
