"""How a history is replayed to a child: which messages, in which lines, in what order.

Knows: what may be written to a child in one piece, and from which length on a history goes into a
transcript instead. Refuses to know: phases, and the answer.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from itertools import islice
from uuid import UUID, uuid5

from attrs import field, frozen

from ...schemas.claude import input as cli_input
from ...schemas.claude.lines import Line
from ...schemas.message import Message, merge_turns, spell_calls, trim, turn_starts, unrolled

IN_BODY_FROM = 16
"""A plain turn with more unknown messages than this replays none: the child sends the API the
whole history in place of its own messages. That costs about 10 ms for any number, in every turn;
replaying costs about 6 ms for each pair, once."""

RECORDED_FROM = 60
"""A history of more messages than this is not written to the child, but into a transcript that the
child resumes: writing takes some milliseconds for each message, resuming half a second in all."""


@frozen
class Batch:
    """Lines that may be written in one piece. They end with the user message `uuid`; the child
    writes a result once it has taken that in. `held` messages of the conversation stand before it
    (None: it stands within one, and there the child's messages cannot be cut)."""

    lines: Sequence[Line]
    uuid: str
    held: int | None


@frozen
class Composition:
    """The lines of one turn. `before`: the messages before the one that the child answers, which
    it still holds after a rewind of that one."""

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
    """The lines that give `messages` to a child, which answers the last one. The child holds the
    first `known` of them already, and before these the calls whose ids are `called`. `words` are
    the gateway's own instruction, behind the last message. Without `asks` the child answers none.

    In batches: the next one may only be written after a zero-turn result, since assistant
    messages would overtake user messages that the CLI is still taking in.
    """

    def name(what: str) -> str:
        """A uuid of its own: the CLI silently drops a frame whose uuid it has seen."""
        return str(uuid5(namespace, what))

    rest, origins = unrolled(_spelt(messages, known, called))
    *earlier, last = merge_turns(rest)
    begins = (origins[start] for start in turn_starts(rest))
    starts = [None if begin < 0 else known + begin for begin in begins]
    batches: deque[Batch] = deque()
    batch: list[Line] = []
    for number, message in enumerate(earlier):
        uuid = name(f"history {number}")
        if message.role == "user":
            batch.append(cli_input.user(uuid, message.content, query=False))
            batches.append(Batch(batch, uuid, starts[number]))
            batch = []
        else:
            batch.append(cli_input.assistant(uuid, message.content, model, weighed=asks))
    uuid = name("prompt")
    asked = last.content if words is None else (*last.content, words)
    batches.append(Batch([*batch, cli_input.user(uuid, asked, query=asks)], uuid, starts[-1]))
    return Composition(batches, _before(messages[known:]))


def _spelt(messages: Sequence[Message], known: int, called: Sequence[str]) -> Sequence[Message]:
    """The messages behind the first `known`. The child holds those, as they were spelt without the
    others: so it is these that have to differ."""
    rest = messages[known:]
    if known and not any(message.calls or message.results for message in rest):
        return rest
    held = messages[:known]
    before = [*called, *(call.id for message in held for call in message.calls)]
    last = held[-1].calls if held else ()
    if not last or not rest or not rest[0].results:
        return spell_calls(rest, before)
    spelt = spell_calls(held, called)[-1].calls
    opened = {one.id: other.id for one, other in zip(last, spelt, strict=True)}
    differing = {one: other for one, other in opened.items() if one != other}
    return spell_calls(rest, before, differing)


def _before(messages: Sequence[Message]) -> tuple[Message, ...]:
    """All but the user messages at the end, which a child gets as one."""
    end = len(messages)
    while end and (messages[end - 1].role == "user" or messages[end - 1].is_blank):
        end -= 1
    return tuple(messages[:end])


def _are_many(messages: Sequence[Message]) -> bool:
    """Whether they are more than `RECORDED_FROM`, as `merge_turns` would join them."""
    return next(islice(turn_starts(messages), RECORDED_FROM, None), None) is not None


def split(
    messages: Sequence[Message], limit: int | None, *, replay_all: bool = False
) -> tuple[tuple[Message, ...], tuple[Message, ...]]:
    """The part of `messages` that a new child resumes, and the part that is written to it.

    The first part is empty unless they are many, and ends with an assistant message. `limit` bounds
    roughly how many the child gets at all (None: any number). `replay_all`: it resumes none.
    """
    given = tuple(messages) if limit is None else trim(messages, limit)
    if replay_all or not _are_many(given):
        return (), given
    recorded = _before(given)
    return recorded, given[len(recorded) :]
