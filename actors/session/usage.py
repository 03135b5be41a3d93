"""What the turns of one conversation cost, out of the running totals of its CLI sessions.

Knows: how a total goes on from one child to the next. Refuses to know: turns, and what is told of
them to whom.

The CLI's result has the usage of the turn's own calls, without those of an agent's subagents; and
the total of its session, which has all of them. So what a turn cost is a difference of totals.
A child that resumes goes on with the total that its predecessor saved when it ended in peace; one
that was killed saved none, and the total goes on from the last one that was saved.

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
    """The totals of a conversation's CLI session. `seen` is the last one that was told, `saved` the
    last one of a child that ended in peace, as far as is known; `is_saved`: the last child did."""

    session_id: str = ""
    seen: Usage = NOTHING
    saved: Usage = NOTHING
    is_saved: bool = False

    def bases(self, session_id: str | None) -> Sequence[Usage]:
        """What the totals of the next child may begin from, the likeliest first. `session_id`: the
        session that it resumes; of one that is not known here nothing is known."""
        if session_id is None:
            return (NOTHING,)
        if session_id != self.session_id:
            return ()
        known = (self.seen, self.saved) if self.is_saved else (self.saved, self.seen)
        return (*known, NOTHING)

    def share(self, result: TurnResult, bases: Sequence[Usage]) -> Usage | None:
        """What the turn cost that `result` ends, whose total began from one of the `bases`. None:
        nobody can tell."""
        if result.total is None:
            return None
        if result.session_id != self.session_id:
            self.session_id, self.saved = result.session_id, NOTHING
        self.seen, self.is_saved = result.total, False
        shares = (result.total - base for base in bases if base.cost_usd <= result.total.cost_usd)
        return next((share for share in shares if _covers(share, result.usage)), None)

    def close(self) -> None:
        """The child has ended in peace."""
        self.saved, self.is_saved = self.seen, True


def _covers(share: Usage, usage: Usage) -> bool:
    """Whether a turn whose own calls took `usage` can have taken `share` in all."""
    return (
        share.prompt_tokens >= usage.prompt_tokens
        and share.completion_tokens >= usage.completion_tokens
    )
