"""Exact messages: what the model said and was told, block by block, thinking and its signature too.

Knows: the blocks that a conversation's log keeps beside those of `schemas.message`. Refuses to
know: their JSON (`schemas.log.codec`), turns (`schemas.log.records`).

From exact messages any child can be given a conversation so that the Messages API receives what it
would have received from the first child.
"""

from __future__ import annotations

from attrs import frozen

from ..message import Block, Message, Role


@frozen
class Thinking:
    """A block of the model's thinking; the Messages API takes it back only with its `signature`."""

    text: str
    signature: str = ""


@frozen
class RedactedThinking:
    """A block of thinking that only the Messages API can read; `data` goes back unchanged."""

    data: str


ExactBlock = Block | Thinking | RedactedThinking


@frozen
class ExactMessage:
    """One message with all its blocks in order. `id`: what the Messages API calls an answer
    (``msg_…``); None for a user's message, and where it is not known."""

    role: Role
    content: tuple[ExactBlock, ...]
    id: str | None = None

    @staticmethod
    def of(message: Message) -> ExactMessage:
        """The same message: it has no thinking."""
        return ExactMessage(message.role, tuple(message.content))

    @property
    def plain(self) -> Message:
        """The message without thinking, as clients bring it back."""
        blocks = [
            each for each in self.content if not isinstance(each, Thinking | RedactedThinking)
        ]
        return Message(self.role, tuple(blocks) or ("",))

    @property
    def text(self) -> str:
        return "".join(block for block in self.content if isinstance(block, str))
