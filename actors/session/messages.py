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
from ..runtime.mailbox import Ref, ReplyTo
from ..runtime.reply_channel import Port
from .events import Close, GiveWay, Interrupt, PermissionReply, StartTurn, Warm
from .phases import Phase


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

    def begin(
        self, turn_id: str, model: str, messages: tuple[Message, ...], now: Memory
    ) -> None: ...
    def say(self, item: TurnItem) -> None: ...
    def end(self, turn_id: str, outcome: Outcome) -> None: ...
    def remove_last(self) -> object: ...
    def move(self, phase: str) -> None: ...
    def ask_permission(self, request: PermissionRequested) -> None: ...
    def settle_permission(self, request_id: str, behavior: str, by: str) -> None: ...


A = TypeVar("A", bound=Audience)


@frozen
class Submit:
    """A turn for this conversation: what to start, and where its items go."""

    start: StartTurn
    port: Port


@frozen
class Add:
    """Messages for this conversation; the reply says whether it holds them now."""

    messages: tuple[Message, ...]
    reply: ReplyTo[bool]


SessionMessage = Submit | Add | Interrupt | Close | PermissionReply | Warm | GiveWay


@define(eq=False)
class SessionState(Generic[A]):
    """What others may read of a session; it outlives the session's actor. `broadcast` is what
    clients watch."""

    memory: Memory
    broadcast: A
    phase: Phase = Phase.ASLEEP
    ref: Ref[SessionMessage] | None = None


@frozen
class Ended:
    """How a session actor ended: the error that its unfinished turns ended with, and whether the
    actor itself failed."""

    error: GatewayError
    crashed: bool = False
