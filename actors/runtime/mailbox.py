"""Mailboxes: an actor is an async function that receives from one; others hold the `Ref` to it.

Knows: tell, ask, answer, and that an actor may be gone. Refuses to know: what a message means.
There is no base class for actors.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any, Generic, Self, TypeAlias, TypeVar

import trio

MAILBOX = 16

M = TypeVar("M")
A = TypeVar("A")

ReplyTo: TypeAlias = trio.MemorySendChannel[A]
"""Where an actor sends the one answer to a message (`Ref.ask`)."""

Asked = set[trio.MemorySendChannel[Any]]
"""The reply channels of the tasks that wait for an answer of one actor."""


class ActorGone(Exception):
    """The actor has ended: it did not take the message, and will not answer."""


class Ref(Generic[M]):
    """Where to send messages of type `M`."""

    def __init__(self, send: trio.MemorySendChannel[M], name: str, asked: Asked) -> None:
        self._send = send
        self._name = name
        self._asked = asked

    def __repr__(self) -> str:
        waiting = self._send.statistics().current_buffer_used
        return f"<Ref {self._name} {waiting}/{MAILBOX}>"

    async def tell(self, message: M) -> None:
        """Put `message` into the mailbox, waiting only while it is full. Raises `ActorGone`."""
        await trio.lowlevel.checkpoint_if_cancelled()
        try:
            try:
                self._send.send_nowait(message)
            except trio.WouldBlock:
                await self._send.send(message)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            raise ActorGone(self._name) from None

    def tell_nowait(self, message: M) -> bool:
        """Put `message` into the mailbox if there is room and an actor; returns whether it did."""
        try:
            self._send.send_nowait(message)
        except (trio.WouldBlock, trio.BrokenResourceError, trio.ClosedResourceError):
            return False
        return True

    async def ask(self, message: Callable[[trio.MemorySendChannel[A]], M]) -> A:
        """Tell a message that carries a reply channel of one slot, and wait for the answer.

        Raises `ActorGone` when the actor ends, or closes the reply channel, without answering.
        """
        send, receive = trio.open_memory_channel[A](1)
        # A channel that is merely dropped does not close (trio leaves that to its owner), so an
        # actor that dies with the question unread would leave the asker waiting: its mailbox
        # closes the reply channels of all who wait.
        self._asked.add(send)
        try:
            with receive:
                await self.tell(message(send))
                return await receive.receive()
        except trio.EndOfChannel:
            raise ActorGone(self._name) from None
        finally:
            self._asked.discard(send)


class Mailbox(Generic[M]):
    """The actor's own end: ``with mailbox:`` around its life, ``async for message in mailbox``.

    Closing it makes the actor gone: it takes nothing more, `unread` has the messages that it did
    not read, and each task that waits for an answer gets `ActorGone`.
    """

    unread: Sequence[M] = ()

    def __init__(self, receive: trio.MemoryReceiveChannel[M], asked: Asked) -> None:
        self._receive = receive
        self._asked = asked

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> M:
        return await self._receive.receive()

    async def receive(self) -> M:
        return await self._receive.receive()

    def receive_nowait(self) -> M:
        """A message that is already there. Raises `trio.WouldBlock`."""
        return self._receive.receive_nowait()

    def close(self) -> None:
        left = []
        with suppress(trio.WouldBlock, trio.ClosedResourceError, trio.EndOfChannel):
            while True:
                left.append(self._receive.receive_nowait())
        self.unread = [*self.unread, *left]
        self._receive.close()
        for reply in tuple(self._asked):
            reply.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def answer(reply: trio.MemorySendChannel[A], value: A) -> bool:
    """Answer a message, once; returns whether its sender still waits. A sender that was cancelled
    must not end the actor."""
    try:
        reply.send_nowait(value)
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        return False
    return True


def open_mailbox(name: str) -> tuple[Ref[M], Mailbox[M]]:
    """A bounded mailbox: the `Ref` for other tasks, the receiving end for the actor alone."""
    send, receive = trio.open_memory_channel[M](MAILBOX)
    asked: Asked = set()
    return Ref(send, name, asked), Mailbox(receive, asked)
