"""The messages of a session actor, what it leaves when it ends, and what it reads of its watchers.

Knows: the messages between a session actor and those around it. Refuses to know: how the actor
works (`actors.session.actor`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Generic, Protocol, TypeVar

from attrs import define, frozen

from ...schemas.errors import GatewayError
from ...schemas.message import Message
from ...schemas.openai.conversation_events import PermissionRequested
from ...schemas.turn import Memory, Outcome
from ...schemas.turn_items import TurnItem
from ...transport.store.interface import Charge
from ..runtime.mailbox import Ref, ReplyTo
from ..runtime.reply_channel import Port
from .events import ChildReady, Close, GiveWay, Interrupt, PermissionReply, StartTurn, Warm
from .phases import Phase


class LiveTurn(Protocol):
    """A turn that watchers follow."""

    @property
    def turn_id(self) -> str: ...
    @property
    def items(self) -> Sequence[TurnItem]:
        """What was delivered of its answer."""


class Audience(Protocol):
    """What a session needs of the broadcast to its watchers (`actors.watching.broadcast`). No
    method waits."""

    @property
    def is_heard(self) -> bool:
        """Whether a client watches, or may come back to it."""

    @property
    def watched_at(self) -> float:
        """When a client last watched, by trio's clock; minus infinity for never."""

    def messages(self) -> Sequence[Message]:
        """The last messages of the conversation, as far as the history keeps them."""

    @property
    def turn(self) -> LiveTurn | None:
        """The turn under way."""

    def begin(
        self, turn_id: str, model: str, messages: tuple[Message, ...], now: Memory
    ) -> None: ...
    def add(self, messages: tuple[Message, ...], ids: Sequence[str]) -> None: ...
    def say(self, item: TurnItem) -> None: ...
    def end(self, turn_id: str, outcome: Outcome, said: Message | None = None) -> None: ...
    def remove_last(self) -> object: ...
    def move(self, phase: str) -> None: ...
    def ask_permission(self, request: PermissionRequested) -> None: ...
    def settle_permission(self, request_id: str, behavior: str, by: str) -> None: ...


class Journal(Protocol):
    """Where a session keeps what happens in it (`actors.conversations.journal`). Each method
    returns once that is durable, and raises `GatewayError` where it may not be: then the session
    ends. They are called one at a time, in the order in which things happened. `is_well`: the
    store took what it was given last."""

    @property
    def is_well(self) -> bool: ...

    async def begin(
        self,
        turn_id: str,
        model: str,
        messages: tuple[Message, ...],
        memory: Memory,
        *,
        replaces: bool,
    ) -> str | None:
        """A turn begins behind `memory`, and asks `messages`; `replaces`: in place of the last
        one. Returns the id of an earlier turn that was lost, if no client knows of it yet."""

    async def end(
        self,
        turn_id: str,
        outcome: Outcome,
        items: Sequence[TurnItem],
        memory: Memory,
        said: Message | None = None,
        *,
        charge: Charge | None = None,
    ) -> None:
        """It has ended; `items` were delivered, and `memory` is the conversation's now. `said` is
        the answer that it remembers; None: what `items` say. `charge`: what it costs its key;
        None: its usage."""

    async def add(self, messages: tuple[Message, ...]) -> Sequence[str]:
        """The conversation holds these too, without a turn; returns an id for each (a uuid)."""

    async def grant(self, rules: tuple[str, ...]) -> None:
        """The conversation's agent may do what these rules allow."""


A = TypeVar("A", bound=Audience)


@frozen
class Submit:
    """A turn for this conversation: what to start, and where its items go."""

    start: StartTurn
    port: Port


@frozen
class Add:
    """Messages for this conversation; the reply says whether it holds them now, or why they cannot
    be kept."""

    messages: tuple[Message, ...]
    reply: ReplyTo[bool | GatewayError]


SessionMessage = Submit | Add | Interrupt | Close | PermissionReply | Warm | GiveWay


@define(eq=False)
class SessionState(Generic[A]):
    """What others may read of a session; it outlives the session's actor. `broadcast` is what
    clients watch; `journal` keeps what happens (None: nothing is kept). `is_settled`: the journal
    has all of it. `owner` is whose conversation it is, `login` the one that its last child had."""

    memory: Memory
    broadcast: A
    owner: str = ""
    login: str = ""
    phase: Phase = Phase.ASLEEP
    ref: Ref[SessionMessage] | None = None
    journal: Journal | None = None
    is_settled: bool = True


C = TypeVar("C")


@frozen
class Lent(Generic[C]):
    """A child that the pool lends to a session, what the session's machine learns of it, and the
    login that the child has."""

    child: C
    ready: ChildReady
    login: str = ""


@frozen
class Ended:
    """How a session actor ended: the error that its unfinished turns ended with, and whether the
    actor itself failed."""

    error: GatewayError
    crashed: bool = False
