"""The timers of a session: which limit counts in which phase, and when it is reached.

Times are points in time, in seconds, `math.inf` for never. `actors.session.machine` decides what a
timer does; `actors.session.actor` waits until the earliest of them.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator

from .child import ChildState
from .phases import Limits, Phase


class Timer(enum.Enum):
    TURN_TIMEOUT = "a turn has run, or waited in the queue, for as long as a turn may"
    IDLE_EXPIRY = "no client has used the conversation"
    IDLE_LIMIT = "the child has been idle for so long that it hibernates"
    FREEZE = "the child is idle, and should use no CPU time"
    TOOL_TIMEOUT = "the client has brought no tool results"
    PERMISSION_TIMEOUT = "no client has answered the permission request"
    STALLED = "the child works, and writes nothing"
    START_TIMEOUT = "the child has not answered the initialize"
    REWIND_TIMEOUT = "the child has not answered the rewind, or the cut"
    CUT_AGAIN = "the child was too busy to be cut back"
    BACKOFF_OVER = "the restart budget has room again"


def timers(
    phase: Phase, limits: Limits, *, since: float, used: float, turn_due: float, budget_free: float,
    child: ChildState | None,
) -> Iterator[tuple[float, Timer]]:  # fmt: skip
    """The timers that run, the most drastic first.

    `since`: when `phase` began. `used`: when the last turn ended. `turn_due`: when the oldest turn
    has to end. `budget_free`: when the restart budget has room.
    """
    yield turn_due, Timer.TURN_TIMEOUT
    if phase in (Phase.ASLEEP, Phase.IDLE, Phase.AWAITING_TOOLS):
        yield used + limits.expire, Timer.IDLE_EXPIRY
    if phase is Phase.IDLE:
        yield since + limits.hibernate, Timer.IDLE_LIMIT
    if phase is Phase.AWAITING_TOOLS:
        yield since + limits.tool_wait, Timer.TOOL_TIMEOUT
    if phase in (Phase.INTERRUPTING, Phase.RELEASING):
        yield since + limits.interrupt, Timer.REWIND_TIMEOUT
    if phase is Phase.BACKOFF:
        yield budget_free, Timer.BACKOFF_OVER
    if child is None:
        return
    if phase is Phase.RELEASING and child.releasing is not None:
        yield child.releasing.again_at, Timer.CUT_AGAIN
    if phase in (Phase.IDLE, Phase.AWAITING_TOOLS) and not child.frozen:
        yield since + limits.freeze, Timer.FREEZE
    if phase is Phase.BUSY and len(child.permissions):
        # The child waits for a client, and may be silent.
        yield child.permissions.due, Timer.PERMISSION_TIMEOUT
    elif phase is Phase.BUSY and child.hosted.is_busy:
        return  # it waits for an MCP server, and may be silent: each call is bounded
    elif phase is Phase.BUSY and child.initialized:
        yield child.active_at + limits.silence, Timer.STALLED
    elif phase is Phase.BUSY:
        yield child.ready + limits.start, Timer.START_TIMEOUT
