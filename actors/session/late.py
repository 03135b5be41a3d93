"""Events that no phase waits for: the legitimately late ones, with the reason for each.

An event travels while the machine moves on: the client answers a permission request while the turn
ends, the child writes while the session stops it. `LATE` lists every such crossing. The machine
drops an event that is listed, and raises `UnexpectedEvent` on any other event that its phase does
not handle: that is an error of the shell, of the CLI, or a fact about the CLI that this table
lacks.
"""

from __future__ import annotations

from typing import get_args

from attrs import frozen

from ...schemas.claude.output import (
    ControlAnswer,
    ControlCancelled,
    Noise,
    PermissionAsked,
    ToolsReturned,
)
from ...schemas.claude.output import Frame as ChildFrame
from ...schemas.turn_items import TextDelta
from .events import Event, GiveWay, PermissionReply, PermissionRequested, Warm
from .phases import Phase
from .turn import AnswerFrame


def every_phase_but(*others: Phase) -> tuple[Phase, ...]:
    return tuple(phase for phase in Phase if phase not in others)


ANSWER: tuple[type, ...] = (TextDelta, *get_args(AnswerFrame))
FRAMES = tuple({*get_args(ChildFrame)} - {Noise, PermissionAsked})
"""The shell keeps `Noise` to itself, and makes `PermissionRequested` of `PermissionAsked`."""


class UnexpectedEvent(AssertionError):
    """The event fits neither the phase nor `LATE`. The machine is unchanged."""

    def __init__(self, phase: Phase, event: Event) -> None:
        super().__init__(f"{type(event).__name__} does not fit {phase.name}: {event!r}")
        self.phase = phase
        self.event = event


@frozen
class Late:
    """Events of these kinds may come in these phases, for this reason. The machine drops them."""

    phases: tuple[Phase, ...]
    kinds: tuple[type, ...]
    reason: str


LATE = (
    Late(
        every_phase_but(Phase.IDLE, Phase.AWAITING_TOOLS),
        (GiveWay,),
        "GiveWay lay in the mailbox while the child was given work, or left.",
    ),
    Late(
        every_phase_but(Phase.ASLEEP),
        (Warm,),
        "A turn has woken the session before Warm was read.",
    ),
    Late(
        every_phase_but(Phase.BUSY),
        (PermissionReply,),
        "The client decided while the turn ended, timed out or lost its child.",
    ),
    Late(
        (Phase.AWAITING_TOOLS,),
        (ToolsReturned,),
        "A tool of the agent's own, or an MCP server's, was done before the client's.",
    ),
    Late(
        (Phase.STOPPING,),
        (*FRAMES, PermissionRequested),
        "The child wrote this before it saw that its stdin was closed, or the signal.",
    ),
    Late(
        (Phase.INTERRUPTING,),
        (*ANSWER, ControlAnswer, ControlCancelled),
        "The child wrote this before it read the request to rewind.",
    ),
    Late(
        (Phase.RELEASING,),
        (*ANSWER, ControlCancelled),
        "The child wrote this before it read the request to be cut back.",
    ),
)

_REASONS = {
    (phase, kind): each.reason for each in LATE for phase in each.phases for kind in each.kinds
}


def late_because(phase: Phase, event: Event) -> str | None:
    """Why such an event may come late in this phase; None: it must not."""
    return _REASONS.get((phase, type(event)))
