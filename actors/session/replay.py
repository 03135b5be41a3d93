"""How messages are put before a child: which of them, in which lines, in what order.

Knows: what a child can be told in one piece, and what a long history is worth. Refuses to know:
phases, and what comes of it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from uuid import UUID, uuid5

from attrs import field, frozen

from ...schemas.claude import input as lines
from ...schemas.message import Message, merge_turns, spell_calls, trim

RECORDED_FROM = 60
"""A history of more messages than this is not told to a child, but put into a transcript for it
to resume: telling takes some milliseconds for each, resuming half a second in all."""


@frozen
class Batch:
    """Lines that may be written in one go; they end with the user message `uuid`, and the child
    says by a result that it is done with that one."""

    lines: Sequence[bytes]
    uuid: str


@frozen
class Composition:
    """What one turn tells a child. `before`: the messages that stand before the one it answers,
    and that it still holds when that one is taken back."""

    batches: deque[Batch] = field(factory=deque)
    before: tuple[Message, ...] = ()


def compose(
    messages: Sequence[Message],
    namespace: UUID,
    model: str,
    *,
    known: int = 0,
    called: Sequence[str] = (),
    words: str | None = None,
    asks: bool = True,
) -> Composition:
    """The lines that put `messages` before a child and have it answer the last one. The child holds
    the first `known` of them already, and before these the calls whose ids are `called`. `words`
    are the gateway's own: they stand behind the last message, and are no part of it. Unless it
    `asks`, the child answers none of them.

    In batches: the next one may only be written after a zero-turn result, since assistant
    messages would overtake user messages that the CLI is still taking in.
    """

    def name(what: str) -> str:
        """A uuid of its own: the CLI silently drops a frame whose uuid it has seen."""
        return str(uuid5(namespace, what))

    *earlier, last = merge_turns(spell_calls(messages, called)[known:])
    batches: deque[Batch] = deque()
    batch: list[bytes] = []
    for number, message in enumerate(earlier):
        uuid = name(f"history {number}")
        if message.role == "user":
            batch.append(lines.user(uuid, message.content, query=False))
            batches.append(Batch(batch, uuid))
            batch = []
        else:
            batch.append(lines.assistant(uuid, message.content, model, weighed=asks))
    uuid = name("prompt")
    asked = last.content if words is None else (*last.content, words)
    batches.append(Batch([*batch, lines.user(uuid, asked, query=asks)], uuid))
    return Composition(batches, _before(messages[known:]))


def _before(messages: Sequence[Message]) -> tuple[Message, ...]:
    """All but the user messages at the end, which a child is told as one."""
    end = len(messages)
    while end and (messages[end - 1].role == "user" or messages[end - 1].is_blank):
        end -= 1
    return tuple(messages[:end])


def _are_many(messages: Sequence[Message]) -> bool:
    """Whether they are more than `RECORDED_FROM`, as `merge_turns` would join them."""
    count, role = 0, ""
    for message in messages:
        if message.role != role and not message.is_blank:
            count, role = count + 1, message.role
            if count > RECORDED_FROM:
                return True
    return False


def split(
    messages: Sequence[Message], limit: int | None, *, all_told: bool = False
) -> tuple[tuple[Message, ...], tuple[Message, ...]]:
    """What of `messages` a child that knows none of them shall resume, and what it is told.

    The former is empty unless they are many, and ends with something of the assistant's.
    `limit` is about how many it is given at all (None: any number). `all_told`: nothing is resumed.
    """
    given = tuple(messages) if limit is None else trim(messages, limit)
    if all_told or not _are_many(given):
        return (), given
    recorded = _before(given)
    return recorded, given[len(recorded) :]
