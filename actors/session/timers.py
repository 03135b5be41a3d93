"""What has to happen to a session if nothing else does, and when.

Knows: which limit counts in which phase. Refuses to know: what is done about it
(`actors.session.machine`), and clocks: times are points in time, in seconds, `math.inf` for never.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator

from .child import ChildState
from .phases import Limits, Phase


class Alarm(enum.Enum):
    OVERDUE = "a turn took, or waited for, all the time it had"
    EXPIRED = "nobody has used the conversation"
    UNUSED = "the child has been idle for so long that it may go"
    FREEZE = "the child has nothing to do, and need not use any CPU for that"
    NO_RESULTS = "the child has waited for its tools for long enough"
    UNANSWERED = "nobody has given the child leave for what it wants to do"
    SILENT = "the child works, and says nothing"
    NEVER_READY = "the child is not set up"
    STUCK = "the child does not take its turn back"
    REPENTED = "the restart budget has room again"


def alarms(
    phase: Phase, limits: Limits, *, since: float, used: float, turn_due: float, budget_free: float,
    child: ChildState | None,
) -> Iterator[tuple[float, Alarm]]:  # fmt: skip
    """What is due when, the most drastic first.

    `since`: when the session came into `phase`, `used`: when its last turn ended, `turn_due`: when
    its oldest turn has to end, `budget_free`: when a child may be sought again.
    """
    yield turn_due, Alarm.OVERDUE
    if phase in (Phase.ASLEEP, Phase.IDLE, Phase.AWAITING_TOOLS):
        yield used + limits.expire, Alarm.EXPIRED
    if phase is Phase.IDLE:
        yield since + limits.hibernate, Alarm.UNUSED
    if phase is Phase.AWAITING_TOOLS:
        yield since + limits.tool_wait, Alarm.NO_RESULTS
    if phase is Phase.INTERRUPTING:
        yield since + limits.interrupt, Alarm.STUCK
    if phase is Phase.BACKOFF:
        yield budget_free, Alarm.REPENTED
    if child is None:
        return
    if phase in (Phase.IDLE, Phase.AWAITING_TOOLS) and not child.frozen:
        yield since + limits.freeze, Alarm.FREEZE
    if phase is Phase.BUSY and len(child.leave):  # it waits for somebody: its silence is theirs
        yield child.leave.due, Alarm.UNANSWERED
    elif phase is Phase.BUSY and child.initialized:
        yield child.heard + limits.silence, Alarm.SILENT
    elif phase is Phase.BUSY:
        yield child.ready + limits.start, Alarm.NEVER_READY
