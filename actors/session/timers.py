"""What has to happen to a session if nothing else does, and when.

Knows: which limit counts in which phase. Refuses to know: what is done about it
(`actors.session.machine`), and clocks: times are points in time, in seconds, `math.inf` for never.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator

from .child import ChildState
from .phases import Limits, Phase


class Timer(enum.Enum):
    TURN_TIMEOUT = "a turn took, or waited for, all the time it had"
    IDLE_EXPIRY = "nobody has used the conversation"
    IDLE_LIMIT = "the child has been idle for so long that it may go"
    FREEZE = "the child has nothing to do, and need not use any CPU for that"
    TOOL_TIMEOUT = "the child has waited for its tools for long enough"
    PERMISSION_TIMEOUT = "nobody has given the child leave for what it wants to do"
    STALLED = "the child works, and says nothing"
    START_TIMEOUT = "the child is not set up"
    REWIND_TIMEOUT = "the child does not take its turn back"
    BACKOFF_OVER = "the restart budget has room again"


def timers(
    phase: Phase, limits: Limits, *, since: float, used: float, turn_due: float, budget_free: float,
    child: ChildState | None,
) -> Iterator[tuple[float, Timer]]:  # fmt: skip
    """What is due when, the most drastic first.

    `since`: when the session came into `phase`, `used`: when its last turn ended, `turn_due`: when
    its oldest turn has to end, `budget_free`: when a child may be sought again.
    """
    yield turn_due, Timer.TURN_TIMEOUT
    if phase in (Phase.ASLEEP, Phase.IDLE, Phase.AWAITING_TOOLS):
        yield used + limits.expire, Timer.IDLE_EXPIRY
    if phase is Phase.IDLE:
        yield since + limits.hibernate, Timer.IDLE_LIMIT
    if phase is Phase.AWAITING_TOOLS:
        yield since + limits.tool_wait, Timer.TOOL_TIMEOUT
    if phase is Phase.INTERRUPTING:
        yield since + limits.interrupt, Timer.REWIND_TIMEOUT
    if phase is Phase.BACKOFF:
        yield budget_free, Timer.BACKOFF_OVER
    if child is None:
        return
    if phase in (Phase.IDLE, Phase.AWAITING_TOOLS) and not child.frozen:
        yield since + limits.freeze, Timer.FREEZE
    if phase is Phase.BUSY and len(child.leave):  # it waits for somebody: its silence is theirs
        yield child.leave.due, Timer.PERMISSION_TIMEOUT
    elif phase is Phase.BUSY and child.initialized:
        yield child.heard + limits.silence, Timer.STALLED
    elif phase is Phase.BUSY:
        yield child.ready + limits.start, Timer.START_TIMEOUT
