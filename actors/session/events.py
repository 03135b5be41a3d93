"""The events that a session's machine takes in, and the actions that it returns.

Knows: the shapes only. Refuses to know: which action follows which event
(`actors.session.machine`), and how an action is performed (`actors.session.actor`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from attrs import field, frozen

from ...schemas.claude.lines import Line
from ...schemas.claude.output import Frame, PermissionAsked
from ...schemas.errors import GatewayError
from ...schemas.events import ModelsListed
from ...schemas.message import Message
from ...schemas.turn import (
    Answer,
    ChildSource,
    ChoiceFate,
    Origin,
    Outcome,
    Setup,
    TurnRequest,
    Usage,
)
from ...schemas.turn_items import TurnItem
from .tools import HostedCall

# -- events; the child's frames are events too -----------------------------------------------------


@frozen
class StartTurn:
    """A client wants a turn. `turn_id` is a uuid. `TurnRequest` says what `reject_if_busy`,
    `back_to` (the turn replaces the last one) and `keep_stopped` mean. `refused`: why the API would
    not answer it, where that is known before."""

    turn_id: str
    request: TurnRequest
    refused: GatewayError | None = None


@frozen
class Interrupt:
    """End this turn, running or queued: its caller has hung up, or a client stops it; or for
    another reason, which is its `error`."""

    turn_id: str
    error: GatewayError | None = None


class Resident(Protocol):
    """What the pool reads of a child that rests (`actors.session.child.ChildState`)."""

    @property
    def served(self) -> int:
        """How many conversations it has served before the present one."""

    @property
    def is_empty(self) -> bool:
        """Whether it holds no message."""

    @property
    def can_be_released(self) -> bool:
        """Whether another conversation may have it."""

    def knows(self, setup: Setup) -> bool:
        """Whether it could serve this setup, once it is emptied."""

    def cut_for(
        self, setup: Setup, digests: Sequence[bytes], exact: Sequence[Message] | None = None
    ) -> int:
        """How many messages of a history it holds that can be left in it; 0: none. `exact`: they
        have to `agree` with these."""


@frozen
class ChildReady:
    """The pool has lent a child. `state` says what it holds, if another conversation had it; else
    it waits for its initialize, and may learn the system prompts in `palette`. `claim`: it is an
    agent's spare, to be claimed for this directory. `source`: how the session got it."""

    state: Resident | None = None
    palette: tuple[str, ...] = ()
    source: ChildSource = "new"
    claim: str | None = None


@frozen
class WakeFailed:
    """The pool has no child for this session; `error` says why."""

    error: GatewayError


@frozen
class ChildGone:
    """The child is reaped. `error` says why, for the turn that needed it."""

    error: GatewayError


@frozen
class TimedOut:
    """The machine's `deadline` has passed."""


@frozen
class GiveWay:
    """Another session needs the child, or its place. `keep` None: it has to go. Else it is to be
    cut back to its first `keep` messages, and handed over (`HandOver`); it goes where that cannot
    be."""

    keep: int | None = None


@frozen
class Warm:
    """Find a child ahead of the first turn, unless the session has one."""


@frozen
class Extend:
    """Add these messages to the conversation without a turn. Ignored while a turn is under way or
    tool calls are open."""

    messages: tuple[Message, ...]


@frozen
class Close:
    """The conversation ends. Turns that are not finished end with `error`."""

    error: GatewayError


@frozen
class PermissionRequested:
    """An agent wants to use a tool that needs permission. `answerable`: a client is connected that
    can give it."""

    asked: PermissionAsked
    answerable: bool


@frozen(kw_only=True)
class PermissionReply:
    """A client answers a permission request. `updated_input` replaces the tool's input; `message`
    is the reason for a denial. With `always` the permission holds in this conversation from now on:
    for the rule called `suggestion`, or the first one that the CLI suggested, or the whole tool.
    `by` names the client's way in: ``watcher`` or ``http``."""

    request_id: str
    allow: bool
    updated_input: Mapping[str, Any] | None = None
    message: str | None = None
    always: bool = False
    suggestion: str | None = None
    by: str = "watcher"


@frozen
class HostedEnded:
    """An MCP server has answered the call, with this ``CallToolResult``."""

    call_id: str
    result: Mapping[str, Any]


Event = (
    StartTurn | Interrupt | ChildReady | WakeFailed | ChildGone | TimedOut | GiveWay | Close
    | PermissionRequested | PermissionReply | HostedEnded | Warm | Extend | Frame
)  # fmt: skip


# -- actions, to be performed in order ----------------------------------------------------------


@frozen
class Wants:
    """What a child has to hold in the end: `setup`, and messages of which these are the digests. A
    child that holds a beginning of them needs the rest only. `exact`: the messages themselves,
    where the API has to read these and no others of the same digests."""

    setup: Setup
    digests: tuple[bytes, ...]
    exact: tuple[Message, ...] | None = None


@frozen
class Wake:
    """Get a child from the pool: one that begins with `origin`, or any generic one. One that served
    another conversation will do, if `wants` says what it has to hold. `ChildReady` or `WakeFailed`
    follows."""

    origin: Origin | None
    wants: Wants | None = None


@frozen
class CancelWake:
    """Stop waiting for a child. Neither `ChildReady` nor `WakeFailed` may follow."""


@frozen
class Write:
    """Write one line to the child."""

    line: Line


@frozen
class Deliver:
    """Send an item to the turn's caller. Only this action may wait, and only the turn's own `End`
    waits behind it."""

    turn_id: str
    item: TurnItem


@frozen
class ChoiceReported:
    """What became of the client's `tool_choice`, where an instruction in the prompt is the only way
    to get the call. The caller knows it before the next item."""

    turn_id: str
    fate: ChoiceFate


@frozen
class Started:
    """The turn is accepted: the shell watches its caller from now on. Exactly one `End` follows
    (invariant 1); for a refused turn, in the same list of actions."""

    turn_id: str
    model: str


@frozen
class End:
    """The turn is over: exactly one for each `Started`, and no `Deliver` after it. Times are points
    in time, in seconds; `first_delta` is None where nothing was delivered. `said` is the answer as
    the conversation remembers it, with its thinking; None: it remembers none. `used` is what the
    turn took in all, whatever came of it; `is_priced`: the CLI has told what that cost."""

    turn_id: str
    outcome: Outcome
    request: TurnRequest
    model: str
    answer: Answer | None
    accepted: float
    first_delta: float | None
    said: Message | None = None
    used: Usage = field(factory=Usage)
    is_priced: bool = False


@frozen
class Billed:
    """The child tells what a turn that had ended already took in all."""

    usage: Usage


@frozen
class RequestPermission:
    """Ask the clients that watch; `PermissionReply` may follow, within so many seconds."""

    turn_id: str
    asked: PermissionAsked
    seconds: float


@frozen
class PermissionSettled:
    """The request needs no answer any more. `by` as in `PermissionReply`, or ``timeout``, or
    ``turn`` where the CLI withdrew it. `always`: the client has set a rule, too."""

    request_id: str
    behavior: str
    by: str
    always: bool = False


@frozen
class PermissionDenied:
    """The use of a tool was denied and no client asked. `by`: ``rule`` or ``no_client``."""

    tool: str
    by: str


@frozen
class CallHosted:
    """Call a tool of an MCP server; `HostedEnded` follows. The call is given up where the child no
    longer works on the turn. `asked`: a client has permitted it; `PermissionSettled` follows."""

    call: HostedCall
    asked: bool = False


@frozen
class ServersFailed:
    """The child could not start these MCP servers of its own, for these reasons; it goes on without
    their tools."""

    reasons: Mapping[str, str]


@frozen
class TranscriptLost:
    """The transcript that a child was to resume is gone, or could not be written, for the reason in
    `error`. A new child gets the last `kept` of the conversation's `held` messages."""

    session_id: str | None
    error: str
    held: int
    kept: int


@frozen
class ClaimRefused:
    """A spare does not take the conversation, for the reason in `error`. It goes, and a new child
    gets the turn."""

    error: str


@frozen
class Hop:
    """The API refused the turn for its login's limits, before anything came of it: a child of
    another login gets it."""

    error: GatewayError


@frozen
class Freeze:
    """Stop the child's process (SIGSTOP) until the next `Write`."""


@frozen
class Retire:
    """Close the child's stdin, so that it saves its state and exits. `ChildGone` follows."""


@frozen
class Kill:
    """Kill the child at once. `ChildGone` follows."""


@frozen
class HandOver:
    """Write these last lines to the child, and give it back to the pool, for another conversation.
    `state` goes along: the pool reads in it what the child holds, and gives it to the next session.

    The lines are no `Write`s: they belong to no turn, and must not wait until the next one is kept
    (`actors.session.keeping`)."""

    state: Resident
    lines: tuple[Line, ...] = ()


@frozen
class ChildChosen:
    """How the turn got its child. The caller knows it before the first item."""

    turn_id: str
    source: ChildSource


Action = (
    Wake | CancelWake | HandOver | ChildChosen | Write | Deliver | ChoiceReported | Started | End
    | Billed | RequestPermission | PermissionSettled | PermissionDenied | CallHosted | ServersFailed
    | TranscriptLost | ClaimRefused | Hop | Freeze | Retire | Kill | ModelsListed
)  # fmt: skip
