"""One turn inside a session's machine: what was asked, what was said, and how it is told.

Knows: the lines that put a turn before a child, and the actions that begin, serve and end one.
Refuses to know: phases, the child, and the rest of the conversation.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from uuid import UUID, uuid5

from attrs import define, field, frozen

from ..schemas import frames
from ..schemas.errors import GatewayError
from ..schemas.frames import AssistantDone, TurnResult
from ..schemas.turn import (
    Answer,
    Completed,
    Failed,
    Memory,
    Message,
    Outcome,
    Prompt,
    ResumePoint,
    Setup,
    TextDelta,
    Usage,
    merge_turns,
    unseen,
)
from .signals import Deliver, End, Started


@frozen
class Batch:
    """Lines that may be written in one go; they end with the user message `uuid`, and the child
    says by a result that it is done with that one."""

    lines: Sequence[bytes]
    uuid: str


@define(eq=False)
class TurnState:
    """A turn that was taken on and has not ended. Times are points in time, in seconds.

    It has to end before `due`. `messages` are those the conversation does not hold yet, `batches`
    what is still to be written to the child, `awaits` the user message that the child is busy
    with, `pieces` the answer so far. `alone`: the prompt is all that the child was told, so that
    one rewind takes everything back.
    """

    turn_id: str
    prompt: Prompt
    setup: Setup
    accepted: float
    due: float
    messages: tuple[Message, ...] = ()
    batches: deque[Batch] = field(factory=deque)
    awaits: str = ""
    alone: bool = False
    pieces: list[str] = field(factory=list)
    first_delta: float | None = None
    _whole: int = 0  # pieces that belong to blocks which are whole
    _assistant_uuid: str | None = None

    # -- what is asked -----------------------------------------------------------------------------

    def started(self) -> Started:
        return Started(self.turn_id, self.setup.model)

    def join(self, memory: Memory) -> bool:
        """Work out what the turn adds to `memory`; False where it contradicts it."""
        self.setup = self.prompt.setup(memory.setup)
        messages = unseen(memory.digests, self.prompt.messages)
        self.messages = messages or ()
        return messages is not None

    def compose(self, history: tuple[Message, ...]) -> None:
        """Fill `batches` with the lines that put `history` and `messages` before a child and have
        it answer the last one.

        In batches: the next one may only be written after a zero-turn result, since assistant
        messages would overtake user messages that the CLI is still taking in.
        """
        *earlier, last = merge_turns((*history, *self.messages))
        lines: list[bytes] = []
        for number, message in enumerate(earlier):
            uuid = self._name(f"history {number}")
            if message.role == "user":
                lines.append(frames.user(uuid, message.content, query=False))
                self.batches.append(Batch(lines, uuid))
                lines = []
            else:
                lines.append(frames.assistant(uuid, message.content, self.setup.model))
        uuid = self._name("prompt")
        lines.append(frames.user(uuid, last.content))
        self.batches.append(Batch(lines, uuid))
        self.alone = not earlier

    def next_lines(self) -> Sequence[bytes]:
        batch = self.batches.popleft()
        self.awaits = batch.uuid
        return batch.lines

    def _name(self, what: str) -> str:
        """A uuid of this turn's own: the CLI silently drops a frame whose uuid it has seen."""
        return str(uuid5(UUID(self.turn_id), what))

    # -- what is said ------------------------------------------------------------------------------

    def say(self, delta: TextDelta, now: float) -> Deliver:
        if self.first_delta is None:
            self.first_delta = now
        self.pieces.append(delta.text)
        return Deliver(self.turn_id, delta)

    def block_done(self, block: AssistantDone, now: float) -> list[Deliver]:
        """A block is whole. One that no delta came of (the CLI asked without a stream) is said
        now, in one piece."""
        if block.synthetic:
            return []
        self._assistant_uuid = block.uuid
        silent = len(self.pieces) == self._whole
        said = [self.say(TextDelta(block.text), now)] if silent and block.text else []
        self._whole = len(self.pieces)
        return said

    # -- how it ends -------------------------------------------------------------------------------

    def is_meant(self, result: TurnResult) -> bool:
        """Whether `result` is about what the child was told last, as far as it says."""
        return result.user_uuid is None or result.user_uuid == self.awaits

    def is_answered(self, result: TurnResult) -> bool:
        """Whether the model has spoken, so that a new child could go on from there. (The CLI ends
        what it answers by itself with a success too.)"""
        return bool(self._assistant_uuid and result.session_id) and not self.batches

    def remembered(self, memory: Memory, result: TurnResult, usage: Usage) -> Memory:
        """`memory` with this turn in it, once it is answered."""
        answer = Message("assistant", ("".join(self.pieces),))
        resume = ResumePoint(result.session_id, self._assistant_uuid)
        return memory.grown(self.setup, (*self.messages, answer), resume, usage)

    def failed(self, error: GatewayError) -> End:
        return self.ended(Failed(error))

    def ended(self, outcome: Outcome) -> End:
        answer = None
        if isinstance(outcome, Completed):
            answer = Answer(tuple(self.pieces), outcome.finish_reason, outcome.usage)
        return End(
            turn_id=self.turn_id,
            outcome=outcome,
            prompt=self.prompt,
            model=self.setup.model,
            answer=answer,
            accepted=self.accepted,
            first_delta=self.first_delta,
        )
