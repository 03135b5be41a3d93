"""What a session is told, what it leaves behind, and what it needs of the pool.

Knows: the words between a session actor and those around it. Refuses to know: how it works
(`actors.session.actor`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar

import trio
from attrs import define, field, frozen

from ...schemas.claude.output import Frame
from ...schemas.errors import GatewayError
from ...schemas.message import Message
from ...schemas.turn import Memory, Origin
from ..runtime.mailbox import Ref
from ..watching.broadcast import Broadcast
from .events import Close, GiveWay, Interrupt, PermissionReply, StartTurn, Warm
from .phases import Phase
from .reply_channel import Port


class Borrowed(Protocol):
    """What a session needs of a child (`transport.process.child.Child`)."""

    gone: trio.Event

    def write(self, line: bytes) -> None: ...
    async def receive_frames(self) -> list[Frame]: ...
    def stop_reading(self) -> None: ...
    def retire(self) -> None: ...
    def kill(self) -> None: ...
    def post_mortem(self) -> GatewayError: ...


C = TypeVar("C", bound=Borrowed)


class Lender(Protocol[C]):
    """What a session needs of the pool (`actors.pool.pool.ChildPool`)."""

    async def acquire(self, conversation_id: str, origin: Origin | None) -> C: ...
    def offer(self, child: C, give_way: Callable[[], None], *, suspended: bool = False) -> None: ...
    def withdraw(self, child: C) -> None: ...
    def freeze(self, child: C) -> None: ...


@frozen
class Submit:
    """A turn for this conversation: what to start, and where its items go."""

    start: StartTurn
    port: Port


@frozen
class Add:
    """Messages for this conversation; the reply says whether it holds them now."""

    messages: tuple[Message, ...]
    reply: trio.MemorySendChannel[bool]


SessionMessage = Submit | Add | Interrupt | Close | PermissionReply | Warm | GiveWay


@define(eq=False)
class SessionState:
    """What others may read of a session, and what is left when its actor has ended. `broadcast` is
    what they watch."""

    memory: Memory
    phase: Phase = Phase.ASLEEP
    ref: Ref[SessionMessage] | None = None
    broadcast: Broadcast = field(factory=Broadcast)


@frozen
class Ended:
    """How a session actor ended: what whoever still waited was told, and whose fault it was."""

    error: GatewayError
    crashed: bool = False
