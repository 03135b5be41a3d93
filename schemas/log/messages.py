"""Exact messages: what the model said and received, block by block, thinking and its signature too.

Knows: a message with the id that the Messages API gave it. Refuses to know: its JSON
(`schemas.log.codec`), turns (`schemas.log.records`).

From exact messages any child can be given a conversation so that the Messages API receives what it
would have received from the first child.
"""

from __future__ import annotations

from attrs import frozen

from ..message import Block, Message, Role


@frozen
class ExactMessage:
    """One message with all its blocks in order. `id`: what the Messages API calls an answer
    (``msg_…``); None for a user's message, and where it is not known."""

    role: Role
    content: tuple[Block, ...]
    id: str | None = None

    @staticmethod
    def of(message: Message) -> ExactMessage:
        return ExactMessage(message.role, tuple(message.content))

    @property
    def message(self) -> Message:
        """The message with all its blocks, as a child receives it."""
        return Message(self.role, self.content)

    @property
    def plain(self) -> Message:
        """The message without thinking, as clients bring it back."""
        return self.message.without_thinking

    @property
    def text(self) -> str:
        return "".join(block for block in self.content if isinstance(block, str))
