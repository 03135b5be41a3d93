"""What is written to a child at the start of a turn: the messages that it lacks, and no more.

Knows: the memory, the turn and the child together; what the child holds beyond the transcript it
began with (`ChildState.held`). Refuses to know: phases, and the answer.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from itertools import accumulate, islice
from typing import Any

from attrs import evolve

from ...schemas.claude import input as cli_input
from ...schemas.json_bytes import LONG
from ...schemas.message import (
    BESIDE,
    Message,
    ToolResult,
    agree,
    digest,
    length_of,
    merge_turns,
    spell_calls,
    trim,
    turn_starts,
    unrolled,
)
from ...schemas.turn import AgentOrigin, Memory, Origin, Recording, ResumePoint, Setup
from .child import ChildState, Cut
from .events import Wants, Write
from .replay import IN_BODY_FROM, compose, split
from .turn import TurnState

IN_PLACE = "(The answer goes on.)"
"""The prompt of a child that sends the API other messages than its own, where these have no text.
Else it is their first text: the CLI puts a digest of that into each request."""


def choose_origin(
    memory: Memory, turn: TurnState | None
) -> tuple[Origin | None, tuple[Message, ...]]:
    """The origin of a new child for this turn, and the messages that it holds then. Without a turn:
    of a child that comes ahead of the first turn, and gets the rest with that."""
    history, known = (memory.resume, ()) if turn is None else _choose_history(memory, turn)
    setup = memory.setup if turn is None else turn.setup
    if setup.profile == "agent":
        return AgentOrigin(setup.model, setup.workspace, memory.grants, history), known
    return history, known


def wants_of(memory: Memory, turn: TurnState | None, setup: Setup) -> Wants | None:
    """What a plain model's child has to hold for this turn; None: it has to be a new one. Of a
    child that comes ahead of the first turn, `setup` is all that is known."""
    if turn is None:
        return Wants(setup, ()) if setup.profile == "chat" else None
    if turn.setup.profile != "chat":
        return None
    if turn.request.options.begun:
        return Wants(turn.setup, ())
    messages = _unrecorded(memory, turn)
    return Wants(turn.setup, tuple(map(digest, messages)), messages if turn.is_exact else None)


def take_over(memory: Memory, turn: TurnState, child: ChildState) -> None:
    """The child comes from another conversation, and may hold a beginning of this one."""
    if child.held:
        same = _unrecorded(memory, turn)[: len(child.held)]
        child.is_alike = child.is_alike or not agree(same, child.held)
        child.held = same
    else:
        unknown, known, recorded = _divide(memory, turn)
        child.held = unknown[:known]  # from the start, as `choose_origin` says
        child.is_partial = bool(child.held)
        child.is_alike = known > recorded


def _choose_history(
    memory: Memory, turn: TurnState
) -> tuple[ResumePoint | Recording | None, tuple[Message, ...]]:
    unknown, known, recorded = _divide(memory, turn)
    if not recorded:
        return memory.resume, unknown[:known]
    # Spelt as in the lines for the rest: each call has one spelling.
    spelt = spell_calls(unknown)[known - recorded : known]
    return Recording(spelt, turn.setup.model), unknown[:known]


def _divide(memory: Memory, turn: TurnState) -> tuple[tuple[Message, ...], int, int]:
    """The messages that no transcript holds; how many of them a new child knows or is spared; and
    how many of those, the last, a transcript has to be written of."""
    if memory.resume is not None or turn.request.options.begun:
        return (), 0, 0  # of an answer that was begun, the API gets all in any case
    unknown = _unrecorded(memory, turn)
    if _goes_in_body(unknown, turn):
        return (), 0, 0
    recorded, sent = split(unknown, turn.request.history_limit, replay_all=turn.replays_all)
    return unknown, len(unknown) - len(sent), len(recorded)


def _unrecorded(memory: Memory, turn: TurnState) -> tuple[Message, ...]:
    """What no transcript holds: another model receives it without the thinking of the last one."""
    if memory.setup.model == turn.setup.model:
        return (*memory.seed, *turn.messages)
    return (*[message.without_thinking for message in memory.seed], *turn.messages)


def write_turn(memory: Memory, turn: TurnState, child: ChildState) -> list[Write]:
    """Write the turn to the child, and before that the messages that the child lacks."""
    unrecorded = _unrecorded(memory, turn)
    if turn.request.options.begun:
        return _write_in_body(unrecorded, memory, turn, child)
    if _goes_in_body(unrecorded[len(child.held) :], turn):
        turn.in_body = True
        return _write_in_body(unrecorded, memory, turn, child)
    composition = compose(
        unrecorded,
        turn.namespace,
        turn.setup.model,
        known=len(child.held),
        called=memory.called,
        words=turn.words,
    )
    child.before = (*child.held, *composition.before)
    turn.ask(composition)
    return [*child.configure(turn.request.options), *write_next(turn, child)]


def _goes_in_body(unknown: Sequence[Message], turn: TurnState) -> bool:
    """Whether the API gets the history in the body of this turn, rather than from a child that
    received it: shorter where there is much to send, and possible where the API is asked once. (The
    body stands in place of the child's own messages in every request of the turn.)"""
    limit = turn.request.history_limit
    given = unknown if limit is None else trim(unknown, limit)
    return turn.is_plain and next(islice(turn_starts(given), IN_BODY_FROM, None), None) is not None


def _write_in_body(
    messages: Sequence[Message], memory: Memory, turn: TurnState, child: ChildState
) -> list[Write]:
    """Have the child send the API `messages` in place of its own, and rewind its own afterwards.
    The model answers the last one, or goes on with it where it is the assistant's: for that, the
    CLI has no frame."""
    limit = turn.request.history_limit
    sent = messages if limit is None else trim(messages, limit)
    first = next(iter(messages[0].content), None) if messages[0].role == "user" else None
    own = first if isinstance(first, str) and first.strip() else IN_PLACE
    turn.ask(compose((Message("user", (own,)),), turn.namespace, turn.setup.model))
    turn.batches[-1] = evolve(turn.batches[-1], held=len(child.held))
    child.before = child.held
    make = partial(_in_api_words, sent, memory.called)
    configured = child.configure(turn.request.options, make, later=_are_long(sent))
    return [*configured, *write_next(turn, child)]


def _in_api_words(
    messages: Sequence[Message], called: Sequence[str]
) -> Iterable[Mapping[str, Any]]:
    flat, _ = unrolled(spell_calls(messages, called))
    return cli_input.api_messages(merge_turns(flat))


def _are_long(messages: Sequence[Message]) -> bool:
    """Whether putting them into words would keep the event loop from others."""
    sizes = accumulate(BESIDE + length_of(message.content) for message in messages)
    return any(size >= LONG for size in sizes)


def write_next(turn: TurnState, child: ChildState) -> list[Write]:
    """Write the next lines that may be written in one piece."""
    batch = turn.next_batch()
    written = child.write_all(batch.lines)
    if batch.held is not None:
        child.cuts.append(Cut(batch.uuid, batch.held))
    child.asked = None if turn.batches else turn.awaits
    return written


def write_results(
    turn: TurnState, child: ChildState, results: tuple[ToolResult, ...]
) -> list[Write]:
    """Give the child the results that it waits for."""
    turn.go_on(child.asked or "")
    return [*child.configure(turn.request.options), *child.answer_calls(results)]


def can_rewind(memory: Memory, child: ChildState) -> bool:
    """Whether a rewind of its last prompt takes the child to where the conversation is. The CLI
    refuses to part results from calls that the child received."""
    if child.before and child.before[-1].calls:
        return False
    if child.asked is None or not child.initialized or len(child.before) > len(memory.seed):
        return False
    pairs = zip(child.before, memory.seed, strict=False)
    return all(one is other or digest(one) == digest(other) for one, other in pairs)
