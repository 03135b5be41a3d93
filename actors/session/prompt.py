"""What a child is told of a conversation: what it lacks, and no more.

Knows: the memory, the turn and the child together; what the child holds beyond the transcript it
began with (`ChildState.extra`). Refuses to know: phases, and what the child makes of it.
"""

from __future__ import annotations

from collections.abc import Sequence

from ...schemas.claude import input as lines
from ...schemas.message import Message, ToolResult, merge_turns, spell_calls, trim
from ...schemas.turn import AgentOrigin, Memory, Origin, Recording, ResumePoint
from .child import ChildState
from .events import Write
from .replay import compose, split
from .turn import TurnState

IN_PLACE = Message("user", ("(The answer goes on.)",))
"""What a child is asked that sends the API other messages than its own."""


def choose_origin(
    memory: Memory, turn: TurnState | None
) -> tuple[Origin | None, tuple[Message, ...]]:
    """What a new child for this turn begins with, and what it need not be told then. Without a
    turn: one that is sought ahead of it, and told all of the rest later."""
    history, known = (memory.resume, ()) if turn is None else _choose_history(memory, turn)
    setup = memory.setup if turn is None else turn.setup
    if setup.profile == "agent":
        return AgentOrigin(setup.model, setup.workspace, memory.grants, history), known
    return history, known


def _choose_history(
    memory: Memory, turn: TurnState
) -> tuple[ResumePoint | Recording | None, tuple[Message, ...]]:
    if memory.resume is not None:
        return memory.resume, ()
    unknown = (*memory.seed, *turn.messages)
    if turn.prompt.options.begun:
        return None, ()  # whatever it is told, the API is sent all of it
    recorded, told = split(unknown, turn.prompt.history_limit, all_told=turn.tells_all)
    known = len(unknown) - len(told)
    if not recorded:
        return None, unknown[:known]
    # As the child is told the rest of it: each call has one spelling.
    spelt = spell_calls(unknown)[known - len(recorded) : known]
    return Recording(spelt, turn.setup.model), unknown[:known]


def tell(memory: Memory, turn: TurnState, child: ChildState) -> list[Write]:
    """Put the turn before the child, and before that what it does not hold of the conversation."""
    unrecorded = (*memory.seed, *turn.messages)
    if turn.prompt.options.begun:
        return _tell_begun(unrecorded, memory, turn, child)
    told = compose(
        unrecorded,
        turn.namespace,
        turn.setup.model,
        known=len(child.extra),
        called=memory.called,
        words=turn.words,
    )
    child.before = (*child.extra, *told.before)
    turn.ask(told)
    return [*child.shape(turn.prompt.options), *tell_more(turn, child)]


def _tell_begun(
    messages: Sequence[Message], memory: Memory, turn: TurnState, child: ChildState
) -> list[Write]:
    """Have the model go on with the last of `messages`, which is the assistant's. No frame of the
    CLI's says so: it sends the API these messages in place of its own, which it takes back."""
    limit = turn.prompt.history_limit
    told = messages if limit is None else trim(messages, limit)
    begun = lines.api_messages(merge_turns(spell_calls(told, memory.called)))
    turn.ask(compose((IN_PLACE,), turn.namespace, turn.setup.model))
    child.before = child.extra
    return [*child.shape(turn.prompt.options, begun), *tell_more(turn, child)]


def tell_more(turn: TurnState, child: ChildState) -> list[Write]:
    """The next lines that may be written in one piece."""
    written = child.write_all(turn.next_lines())
    child.asked = None if turn.batches else turn.awaits
    return written


def go_on(turn: TurnState, child: ChildState, results: tuple[ToolResult, ...]) -> list[Write]:
    """Give the child the results that its turn waits for."""
    turn.go_on(child.asked or "")
    return [*child.shape(turn.prompt.options), *child.answer_calls(results)]


def can_rewind(memory: Memory, child: ChildState) -> bool:
    """Whether taking back what it was last asked leaves the child where the conversation is."""
    fits = child.before == memory.seed[: len(child.before)]
    return child.asked is not None and child.initialized and fits
