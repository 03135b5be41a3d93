"""What one actor holds of another: a `Ref`, the sending end of a bounded mailbox.

Knows: telling, asking, and that an actor may be gone. Refuses to know: what a message means.
An actor itself is an async function that receives from the other end; there is no base class.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

import trio

MAILBOX = 16

M = TypeVar("M")
A = TypeVar("A")


class ActorGone(Exception):
    """The actor has ended: the message was not taken, and nobody will answer."""


class Ref(Generic[M]):
    """Where to send messages of type `M`."""

    def __init__(self, send: trio.MemorySendChannel[M], name: str) -> None:
        self._send = send
        self._name = name

    def __repr__(self) -> str:
        waiting = self._send.statistics().current_buffer_used
        return f"<Ref {self._name} {waiting}/{MAILBOX}>"

    async def tell(self, message: M) -> None:
        """Put `message` into the mailbox, waiting while it is full. Raises `ActorGone`."""
        try:
            await self._send.send(message)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            raise ActorGone(self._name) from None

    def tell_nowait(self, message: M) -> bool:
        """Put `message` into the mailbox if there is room and an actor; says whether it was."""
        try:
            self._send.send_nowait(message)
        except (trio.WouldBlock, trio.BrokenResourceError, trio.ClosedResourceError):
            return False
        return True

    async def ask(self, message: Callable[[trio.MemorySendChannel[A]], M]) -> A:
        """Tell a message that carries a reply channel of one slot, and wait for the answer.

        Raises `ActorGone` when the actor ends, or drops the channel, without answering.
        """
        send, receive = trio.open_memory_channel[A](1)
        with receive:
            # The asker keeps no end of the reply: an actor that dies takes the only one with it.
            await self.tell(message(send))
            try:
                return await receive.receive()
            except trio.EndOfChannel:
                raise ActorGone(self._name) from None


def open_mailbox(name: str) -> tuple[Ref[M], trio.MemoryReceiveChannel[M]]:
    """A bounded mailbox: the `Ref` for everybody, the receiving end for the actor alone."""
    send, receive = trio.open_memory_channel[M](MAILBOX)
    return Ref(send, name), receive
