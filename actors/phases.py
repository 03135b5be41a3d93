"""The phases of a session, and the limits it obeys: the vocabulary of `actors.machine`.

Knows: names and numbers. Refuses to know: what leads from one phase to another.
"""

from __future__ import annotations

import enum
import math

from attrs import frozen


class Phase(enum.Enum):
    ASLEEP = "asleep"
    WAKING = "waking"
    IDLE = "idle"
    BUSY = "busy"
    INTERRUPTING = "interrupting"
    BACKOFF = "backoff"
    STOPPING = "stopping"
    CLOSED = "closed"


@frozen
class Limits:
    """The settings a machine obeys; times in seconds, `math.inf` for never."""

    turn: float = 300.0
    silence: float = 120.0
    start: float = 30.0
    interrupt: float = 5.0
    freeze: float = math.inf
    hibernate: float = math.inf
    expire: float = math.inf
    queued: int = 16
    keep_child: bool = True
