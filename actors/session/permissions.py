"""The permission requests of a present child: which are open, and how each is answered.

Knows: the open requests, when each times out, and the lines that answer the CLI's. Refuses to know:
phases and turns, who is asked, and which calls need permission (of its own tools the CLI decides
that, by the rules in the settings; of MCP servers' the gateway: `actors.session.hosted`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from attrs import define, field, frozen

from ...schemas.claude import input as cli_input
from ...schemas.claude.lines import Line
from ...schemas.claude.output import PermissionAsked
from ...schemas.claude.permissions import Suggestion, read_suggestions
from ...schemas.openai.conversation_events import PermissionRequested
from .events import PermissionReply, RequestPermission

NO_CLIENT = (
    "No client is connected that could permit this, so it was not done. Continue without it, or "
    "say what you would have done."
)
TOO_LATE = "No client permitted this in time, so it was not done."
DENIED = "The user denied permission for this."


@frozen
class Answer:
    """Whether the child has permission for what it `asked`: with this input, and by these rules
    from now on (`updates` are those in the CLI's words); or not, for the reason in `message`."""

    asked: PermissionAsked
    allowed: bool
    message: str = ""
    input: Mapping[str, Any] = field(factory=dict)
    rules: tuple[str, ...] = ()
    updates: tuple[Mapping[str, Any], ...] = ()

    @property
    def line(self) -> Line:
        """What the CLI gets."""
        if not self.allowed:
            return cli_input.deny(self.asked.request_id, self.message)
        return cli_input.allow(self.asked.request_id, self.input, self.updates)


@define
class _Open:
    asked: PermissionAsked
    due: float


class PermissionRequests:
    """The requests of one child. `due` is a point in time, `math.inf` where none is open."""

    def __init__(self) -> None:
        self._open: dict[str, _Open] = {}

    def __repr__(self) -> str:
        return f"<PermissionRequests open={sorted(self._open)}>"

    def __len__(self) -> int:
        return len(self._open)

    @property
    def due(self) -> float:
        return min((each.due for each in self._open.values()), default=math.inf)

    def open(self, asked: PermissionAsked, due: float) -> None:
        self._open[asked.request_id] = _Open(asked, due)

    def answer(self, reply: PermissionReply) -> Answer | None:
        """None: no such request is open."""
        waiting = self._open.pop(reply.request_id, None)
        if waiting is None:
            return None
        asked = waiting.asked
        if not reply.allow:
            return Answer(asked, allowed=False, message=reply.message or DENIED)
        chosen = _chosen(asked, reply) if reply.always else None
        return Answer(
            asked,
            allowed=True,
            input=asked.input if reply.updated_input is None else reply.updated_input,
            rules=() if chosen is None else chosen.rules,
            updates=() if chosen is None else (chosen.update,),
        )

    def cancel(self, request_id: str) -> bool:
        """The child withdraws a request; returns whether it was open."""
        return self._open.pop(request_id, None) is not None

    def expire(self, now: float) -> list[Answer]:
        """What denies the requests that have timed out."""
        late = [request_id for request_id, each in self._open.items() if each.due <= now]
        return [
            Answer(self._open.pop(request_id).asked, allowed=False, message=TOO_LATE)
            for request_id in late
        ]

    def forget(self) -> None:
        """The turn is over, and its requests with it."""
        self._open.clear()


def request_of(action: RequestPermission, now: float) -> PermissionRequested:
    """The event for the clients that watch; `now` is in unix seconds."""
    asked = action.asked
    offered = suggestions_of(asked)
    return PermissionRequested(
        turn_id=action.turn_id,
        request_id=asked.request_id,
        tool=asked.tool,
        input=asked.input,
        title=asked.title or None,
        description=asked.description or None,
        suggestions=tuple({"id": each.id, "label": each.label} for each in offered),
        expires_at=now + action.seconds,
    )


def suggestions_of(asked: PermissionAsked) -> Sequence[Suggestion]:
    return read_suggestions(asked.suggestions, asked.tool)


def _chosen(asked: PermissionAsked, reply: PermissionReply) -> Suggestion:
    offered = suggestions_of(asked)
    return next((each for each in offered if each.id == reply.suggestion), offered[0])
