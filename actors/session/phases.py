"""The phases of a session, and the limits it obeys: the vocabulary of `actors.session.machine`.

      ASLEEP ──StartTurn──> WAKING ──ChildReady──> BUSY <────StartTurn──── IDLE
        ^                                          │ ││                     ^
        │                                          │ │└─TurnResult──────────┤
        │                    AWAITING_TOOLS <─calls┘ │                      │
        │                     └─results─> BUSY    Interrupt─> INTERRUPTING ─┘ rewound
        └──ChildGone── STOPPING <──Retire, Kill── (IDLE, BUSY, AWAITING_TOOLS, INTERRUPTING)

BACKOFF is ASLEEP with the restart budget spent; CLOSED is the end.

Knows: names and numbers. Refuses to know: what becomes of turns and children on the way
(`actors.session.machine`).
"""

from __future__ import annotations

import enum
import math

from attrs import frozen


class Phase(enum.Enum):
    ASLEEP = "asleep"  # no child, nothing to do
    WAKING = "waking"  # a child is sought for the turn
    IDLE = "idle"  # a child waits for the next turn
    BUSY = "busy"  # the child works on the turn
    AWAITING_TOOLS = "awaiting_tools"  # the child waits for what its tool calls came to
    INTERRUPTING = "interrupting"  # the child takes back a turn that has ended
    BACKOFF = "backoff"  # children kept dying: none is sought for a while
    STOPPING = "stopping"  # the child was told to go, and has not gone yet
    CLOSED = "closed"  # the end


@frozen
class Limits:
    """The settings a machine obeys; times in seconds, `math.inf` for never.

    `turn`: from acceptance to end. `silence`: of a child that works, `start`: until it is set up,
    `interrupt`: until it has taken a turn back. `freeze` and `hibernate`: of an idle child,
    `tool_wait`: of one whose tool calls have no results, `leave`: of one that needs leave for what
    it wants to do, `expire`: of a conversation that nobody
    uses. `queued`: turns that may wait behind another. `keep_child` False: one child per turn.
    `program`: the CLI that runs, for errors that say what to do with it.
    """

    turn: float = 300.0
    silence: float = 120.0
    start: float = 30.0
    interrupt: float = 5.0
    freeze: float = math.inf
    hibernate: float = math.inf
    expire: float = math.inf
    tool_wait: float = math.inf
    leave: float = 60.0
    queued: int = 16
    keep_child: bool = True
    program: str = "claude"
