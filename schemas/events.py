"""Facts that the actors publish: past tense, one per turn phase or change of life, never per token.

Knows: what happened. Refuses to know: who listens, and what it is counted as.
"""

from __future__ import annotations

from attrs import frozen

from .claude.models import ListedModel
from .errors import GatewayError
from .turn import Answer, ChildSource, Usage


@frozen
class ConversationOpened:
    conversation_id: str


@frozen
class ConversationClosed:
    """The conversation left memory; `reason` is ``deleted``, ``expired``, ``evicted`` or
    ``forgotten``."""

    conversation_id: str
    reason: str


@frozen
class SessionCrashed:
    """A session actor failed by an error of ours. The conversation goes on with the next turn."""

    conversation_id: str


@frozen
class PhaseChanged:
    """A session moved from one phase of its machine to another (names as in
    `actors.session.machine`)."""

    conversation_id: str
    old: str
    new: str


@frozen
class TurnAccepted:
    """A session accepted a turn; it ends with exactly one `TurnFinished` or `TurnFailed`."""

    turn_id: str
    conversation_id: str
    model: str
    owner: str = ""


@frozen
class TurnFinished:
    """A turn ended with a whole answer; `answer` is None where that calls tools. Times are in
    seconds since the turn was accepted. `login`: whose child answered."""

    turn_id: str
    conversation_id: str
    model: str
    usage: Usage
    seconds: float
    first_delta_seconds: float | None
    cache_key: str | None
    answer: Answer | None
    login: str = ""
    owner: str = ""


@frozen
class TurnFailed:
    """A turn ended without a whole answer (also by interruption: see `error.code`). `login`: whose
    child had it; empty where none did."""

    turn_id: str
    conversation_id: str
    model: str
    error: GatewayError
    seconds: float
    cache_key: str | None
    login: str = ""
    owner: str = ""


@frozen
class ChildSpawned:
    pid: int
    resumed: bool


@frozen
class ChildAdopted:
    """A child went to a session; `warm` when it came out of the pool, `waited` seconds in queue.
    `login`: whose it is. `owner`: for whom."""

    pid: int
    conversation_id: str
    warm: bool
    waited: float
    login: str = "default"
    owner: str = ""


@frozen
class ChildTaken:
    """A turn has its child, from this source."""

    turn_id: str
    conversation_id: str
    source: ChildSource


@frozen
class ChildExited:
    """A child is gone and reaped. `expected` when the gateway had ended it."""

    pid: int
    returncode: int | None
    expected: bool


@frozen
class ChildFrozen:
    pid: int


@frozen
class LimitsReported:
    """A child reported how its login's limits stand, or the login is another one now. `rejected`:
    the API answers no turn of it."""

    login: str
    rejected: bool


@frozen
class ModelsListed:
    """A child has listed the models that its login may use."""

    models: tuple[ListedModel, ...]


@frozen
class CacheAsked:
    """The cache looked up an answer: ``hit``, ``miss`` or ``joined`` (another request's turn)."""

    outcome: str


@frozen
class McpServerChanged:
    """An MCP server of the operator's is ``connecting``, ``ready``, ``needs_auth``, ``failed``, or
    ``gone`` from the file."""

    server: str
    state: str


@frozen
class McpCalled:
    """A tool of an MCP server was called: ``done``, or ``error``, error results among them."""

    server: str
    outcome: str
    seconds: float


@frozen
class McpFileRead:
    """The file of MCP servers was read again, and is in force; or is refused, and changes
    nothing."""

    refused: bool


@frozen
class ToolAsked:
    """The clients of a conversation are asked whether the model may use a tool; `ToolDecided`
    follows, unless the turn ends before."""

    conversation_id: str
    owner: str
    turn_id: str
    request_id: str
    tool: str


@frozen
class ToolDecided:
    """It was decided whether the model may use a tool. `by`: ``rule`` (the operator's, or one that
    a client has set for the conversation), ``watcher``, ``http`` or ``approval`` (a client, by its
    way in: a WebSocket, a request, an item of the Responses API),
    ``timeout`` (no client answered in time), ``no_client`` (none was connected), or ``turn`` (the
    CLI withdrew the request). `always`: the client has set a rule with its answer. `request_id` is
    empty where no client was asked, `turn_id` where no turn runs."""

    conversation_id: str
    owner: str
    turn_id: str
    request_id: str
    tool: str
    behavior: str
    by: str
    always: bool = False


@frozen
class CallerRefused:
    """A request was refused for its key, or for what that lacks (401, 403). `owner` is empty where
    the key is not known. `code` is the error's."""

    request_id: str
    owner: str
    status: int
    code: str


@frozen
class ConversationDeleted:
    """A client has deleted a conversation, whether it was in memory or not."""

    conversation_id: str
    owner: str


@frozen
class ConversationExported:
    conversation_id: str
    owner: str


@frozen
class EventsLost:
    """For one listener that lagged: how many events it did not get, and will not."""

    count: int


Event = (
    ConversationOpened
    | ConversationClosed
    | SessionCrashed
    | PhaseChanged
    | TurnAccepted
    | TurnFinished
    | TurnFailed
    | ChildSpawned
    | ChildAdopted
    | ChildTaken
    | ChildExited
    | ChildFrozen
    | LimitsReported
    | ModelsListed
    | CacheAsked
    | McpServerChanged
    | McpCalled
    | McpFileRead
    | ToolAsked
    | ToolDecided
    | CallerRefused
    | ConversationDeleted
    | ConversationExported
    | EventsLost
)
