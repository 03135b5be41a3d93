"""One turn inside a session's machine: what was asked, what was said, and how it is told.

Knows: the lines that put a turn before a child, and the actions that begin and end one. Refuses
to know: phases, and the rest of the conversation.
"""

from __future__ import annotations

from collections import deque
from uuid import UUID, uuid5

from attrs import define, field

from ..schemas import frames
from ..schemas.turn import Answer, Completed, Message, Outcome, Prompt, merge_turns
from .signals import End, Started


@define(eq=False)
class TurnState:
    """A turn that was accepted and has not ended. Times are points in time, in seconds.

    `messages` are those the conversation does not hold yet, `uuid` the prompt's in the child,
    `batches` what is still to be written to it, `pieces` the answer so far, and `assistant_uuid`
    the child's name for the last assistant message of the answer.
    """

    turn_id: str
    prompt: Prompt
    model: str
    accepted: float
    messages: tuple[Message, ...] = ()
    uuid: str = ""
    batches: deque[list[bytes]] = field(factory=deque)
    pieces: list[str] = field(factory=list)
    first_delta: float | None = None
    assistant_uuid: str | None = None

    def started(self) -> Started:
        return Started(self.turn_id, self.model)

    def ended(self, outcome: Outcome) -> End:
        answer = None
        if isinstance(outcome, Completed):
            answer = Answer(tuple(self.pieces), outcome.finish_reason, outcome.usage)
        return End(
            turn_id=self.turn_id,
            outcome=outcome,
            prompt=self.prompt,
            model=self.model,
            answer=answer,
            accepted=self.accepted,
            first_delta=self.first_delta,
        )

    def compose(self, history: tuple[Message, ...], model: str) -> None:
        """Fill `batches` with the lines that put `history` and `messages` before a child and have
        it answer the last one.

        In batches: the next one may only be written after a zero-turn result, since assistant
        messages would overtake user messages that the CLI is still taking in.
        """
        *earlier, last = merge_turns((*history, *self.messages))
        batches: deque[list[bytes]] = deque([[]])
        for number, message in enumerate(earlier):
            uuid = self._name(f"history {number}")
            if message.role == "user":
                batches[-1].append(frames.user(uuid, message.content, query=False))
                batches.append([])
            else:
                batches[-1].append(frames.assistant(uuid, message.content, model))
        self.uuid = self._name("prompt")
        batches[-1].append(frames.user(self.uuid, last.content))
        self.batches = batches

    def _name(self, what: str) -> str:
        """A uuid of this turn's own: the CLI silently drops a frame whose uuid it has seen."""
        return str(uuid5(UUID(self.turn_id), what))
