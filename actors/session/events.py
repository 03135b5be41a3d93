"""What a session's machine is told (events) and what it answers (actions).

Knows: the words only. Refuses to know: which follows which (`actors.session.machine`), and how an
action is performed (`actors.session.actor`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attrs import frozen

from ...schemas.claude.output import Frame, PermissionAsked
from ...schemas.errors import GatewayError
from ...schemas.message import Message
from ...schemas.turn import Answer, ChoiceFate, Memory, Origin, Outcome, Prompt
from ...schemas.turn_items import TurnItem

# -- events; the child's frames come as they are --------------------------------------------------


@frozen
class StartTurn:
    """A caller wants a turn. `turn_id` is a uuid. With `reject_if_busy` it does not wait for
    another turn of this conversation, but fails at once. With `back_to` the last turn is taken back
    before: that is what the conversation remembered until then. With `keep_stopped` an answer that
    is interrupted stays in the conversation, as far as it came."""

    turn_id: str
    prompt: Prompt
    reject_if_busy: bool = False
    back_to: Memory | None = None
    keep_stopped: bool = False


@frozen
class Interrupt:
    """End this turn, running or waiting: its caller has gone, or somebody says so."""

    turn_id: str


@frozen
class ChildReady:
    """A child was found, and waits to be initialized."""


@frozen
class WakeFailed:
    """No child could be had."""

    error: GatewayError


@frozen
class ChildGone:
    """The child is reaped. `error` says why, for a turn that needed it."""

    error: GatewayError


@frozen
class TimedOut:
    """The machine's `deadline` has passed."""


@frozen
class GiveWay:
    """Others need the room: an idle child should go."""


@frozen
class Warm:
    """Find a child ahead of the first turn, unless there is one."""


@frozen
class Extend:
    """Let the conversation hold these messages too, which nobody is to answer now. Dropped while a
    turn is under way or tool calls stand open."""

    messages: tuple[Message, ...]


@frozen
class Close:
    """The conversation ends. Turns that are not finished end with `error`."""

    error: GatewayError


@frozen
class PermissionRequested:
    """An agent wants to use a tool that needs leave. `heard`: somebody is there who can give it."""

    asked: PermissionAsked
    heard: bool


@frozen(kw_only=True)
class PermissionReply:
    """Somebody has answered. `updated_input` takes the place of what the tool was to be given,
    `message` says why not. With `always` it is allowed in this conversation from now on: the rule
    called `suggestion`, or the first one that was suggested, or the tool as such. `by` says who:
    ``watcher`` or ``http``."""

    request_id: str
    allow: bool
    updated_input: Mapping[str, Any] | None = None
    message: str | None = None
    always: bool = False
    suggestion: str | None = None
    by: str = "watcher"


Event = (
    StartTurn | Interrupt | ChildReady | WakeFailed | ChildGone | TimedOut | GiveWay | Close
    | PermissionRequested | PermissionReply | Warm | Extend | Frame
)  # fmt: skip


# -- actions, to be performed in order ----------------------------------------------------------


@frozen
class Wake:
    """Find a child: one that begins with `origin`, or any generic one. Answered by `ChildReady` or
    `WakeFailed`."""

    origin: Origin | None


@frozen
class CancelWake:
    """Stop looking for a child. Neither `ChildReady` nor `WakeFailed` may follow."""


@frozen
class Write:
    """Write one line to the child."""

    line: bytes


@frozen
class Deliver:
    """Hand an item to the turn's caller. The only action that may wait, and the turn's `End` waits
    behind it; nothing else does."""

    turn_id: str
    item: TurnItem


@frozen
class ToldChoice:
    """How the client's wish for a tool call fares, where the model can only be asked for it. The
    caller knows it before the next item."""

    turn_id: str
    fate: ChoiceFate


@frozen
class Started:
    """The turn was taken on: its caller is to be watched from now on. `End` follows for certain,
    in the same breath where the turn is refused."""

    turn_id: str
    model: str


@frozen
class End:
    """The turn is over. Said exactly once for each `Started`; nothing is delivered after it. Times
    are points in time, in seconds; `first_delta` is None where nothing was delivered."""

    turn_id: str
    outcome: Outcome
    prompt: Prompt
    model: str
    answer: Answer | None
    accepted: float
    first_delta: float | None


@frozen
class RequestPermission:
    """Ask whoever is there; `PermissionReply` may follow, within so many seconds."""

    turn_id: str
    asked: PermissionAsked
    seconds: float


@frozen
class PermissionSettled:
    """The request needs no answer any more. `by` as in `PermissionReply`, or ``timeout``, or
    ``turn`` where the child itself took it back."""

    request_id: str
    behavior: str
    by: str


@frozen
class TranscriptLost:
    """What a child was to take up is not there, or cannot be put there, for the reason that
    `error` gives: another one is told the last `kept` of the `held` messages."""

    session_id: str | None
    error: str
    held: int
    kept: int


@frozen
class Freeze:
    """Stop the child's clock until the next `Write`."""


@frozen
class Retire:
    """Let the child go in peace. `ChildGone` follows."""


@frozen
class Kill:
    """End the child at once. `ChildGone` follows."""


Action = (
    Wake | CancelWake | Write | Deliver | ToldChoice | Started | End | RequestPermission
    | PermissionSettled | TranscriptLost | Freeze | Retire | Kill
)  # fmt: skip
