"""The phases of a session, and the limits it obeys.

      ASLEEP ──StartTurn──> WAKING ──ChildReady──> BUSY <────StartTurn──── IDLE
        ^                                          │ ││                     ^
        │                                          │ │└─TurnResult──────────┤
        │                    AWAITING_TOOLS <─calls┘ │                      │
        │                     └─results─> BUSY    Interrupt─> INTERRUPTING ─┘ rewound
        ├──ChildGone── STOPPING <──Retire, Kill── (IDLE, BUSY, AWAITING_TOOLS, INTERRUPTING)
        └──HandOver─── RELEASING <──GiveWay, Close── (IDLE, AWAITING_TOOLS)

BACKOFF is ASLEEP with the restart budget spent; CLOSED is the end.

The package's docstring describes what happens on the way, and `actors.session.machine` decides it.
"""

from __future__ import annotations

import enum
import math

from attrs import frozen


class Phase(enum.Enum):
    ASLEEP = "asleep"  # no child, nothing to do
    WAKING = "waking"  # the pool looks for a child
    IDLE = "idle"  # a child waits for the next turn
    BUSY = "busy"  # the child works on the turn
    AWAITING_TOOLS = "awaiting_tools"  # the child waits for the results of its tool calls
    INTERRUPTING = "interrupting"  # the child rewinds a turn that has ended
    BACKOFF = "backoff"  # children kept dying: the session starts none for a while
    RELEASING = "releasing"  # the child is cut back, for another conversation
    STOPPING = "stopping"  # the session has stopped the child, which has not exited yet
    CLOSED = "closed"  # the end


@frozen
class Limits:
    """The settings a machine obeys; times in seconds, `math.inf` for never.

    `turn`: from acceptance to end. `silence`: of a working child without output. `start`: of a
    child until it is set up. `interrupt`: of a rewind. `freeze` and `hibernate`: of an idle child.
    `tool_wait`: of a child that waits for tool results. `permission`: of a permission request
    without an answer. `expire`: of a conversation without use. `queued`: turns that may wait behind
    another. `keep_child` False: one child per turn. `recycle`: a child may serve one conversation
    after another. `program`: the CLI, as errors name it.
    """

    turn: float = 300.0
    silence: float = 120.0
    start: float = 30.0
    interrupt: float = 5.0
    freeze: float = math.inf
    hibernate: float = math.inf
    expire: float = math.inf
    tool_wait: float = math.inf
    permission: float = 60.0
    queued: int = 16
    keep_child: bool = True
    recycle: bool = False
    program: str = "claude"
