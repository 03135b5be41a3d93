"""What is written to a child at the start of a turn: the messages that it lacks, and no more.

Knows: the memory, the turn and the child together; what the child holds beyond the transcript it
began with (`ChildState.extra`). Refuses to know: phases, and the answer.
"""

from __future__ import annotations

from collections.abc import Sequence

from ...schemas.claude import input as cli_input
from ...schemas.message import Message, ToolResult, merge_turns, spell_calls, trim
from ...schemas.turn import AgentOrigin, Memory, Origin, Recording, ResumePoint
from .child import ChildState
from .events import Write
from .replay import compose, split
from .turn import TurnState

IN_PLACE = Message("user", ("(The answer goes on.)",))
"""The prompt of a child that sends the API other messages than its own."""


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


def known_at_start(memory: Memory, turn: TurnState) -> tuple[Message, ...]:
    """The messages that a new child for this turn holds from the start, as `choose_origin` says."""
    unknown, known, _ = _divide(memory, turn)
    return unknown[:known]


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
        return _write_prefilled(unrecorded, memory, turn, child)
    composition = compose(
        unrecorded,
        turn.namespace,
        turn.setup.model,
        known=len(child.extra),
        called=memory.called,
        words=turn.words,
    )
    child.before = (*child.extra, *composition.before)
    turn.ask(composition)
    return [*child.configure(turn.request.options), *write_next(turn, child)]


def _write_prefilled(
    messages: Sequence[Message], memory: Memory, turn: TurnState, child: ChildState
) -> list[Write]:
    """Have the model continue the last of `messages`, the assistant's. The CLI has no frame for
    that: it sends the API these messages in place of its own, and rewinds its own afterwards."""
    limit = turn.request.history_limit
    sent = messages if limit is None else trim(messages, limit)
    begun = cli_input.api_messages(merge_turns(spell_calls(sent, memory.called)))
    turn.ask(compose((IN_PLACE,), turn.namespace, turn.setup.model))
    child.before = child.extra
    return [*child.configure(turn.request.options, begun), *write_next(turn, child)]


def write_next(turn: TurnState, child: ChildState) -> list[Write]:
    """Write the next lines that may be written in one piece."""
    written = child.write_all(turn.next_lines())
    child.asked = None if turn.batches else turn.awaits
    return written


def write_results(
    turn: TurnState, child: ChildState, results: tuple[ToolResult, ...]
) -> list[Write]:
    """Give the child the results that it waits for."""
    turn.go_on(child.asked or "")
    return [*child.configure(turn.request.options), *child.answer_calls(results)]


def can_rewind(memory: Memory, child: ChildState) -> bool:
    """Whether a rewind of its last prompt takes the child to where the conversation is."""
    fits = child.before == memory.seed[: len(child.before)]
    return child.asked is not None and child.initialized and fits
